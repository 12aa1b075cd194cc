"""A results folder as one HTML page that needs no other file, and the same in a few lines of text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import pandas as pd

from analysis import cautions, embedding, figures, headline, identity, naming, palette, render, scores, sections, sensitivity, tables
from analysis.embedding import Section
from analysis.tables import CELL, ENTRY
from runner.record import SCHEMA

PRINTED = ["submission", "status", "reached_seconds", "reached_step", "val_ppl", "bytes_state", "bytes_peak"]
"""Columns of the table in the terminal."""
COMMANDS = 40
"""Commands on the page; more than these nobody types."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What every part of a report starts from, computed once."""

    trials: pd.DataFrame
    """With short names of submissions."""
    points: pd.DataFrame
    best: pd.DataFrame
    """The trials that stand for each submission, the fastest submission first."""
    summary: pd.DataFrame
    tuning: pd.DataFrame
    rankings: list[scores.Ranking]
    overall: list[str]
    """The result over all workloads in words."""
    headlines: dict[str, str]
    """By workload."""
    warnings: list[str]
    styles: palette.Styles


def digest(trials: pd.DataFrame, points: pd.DataFrame) -> Digest:
    """The choices and tables on which all parts of the report rest."""
    trials = identity.settled(trials)
    best = tables.best(trials, points)
    summary = tables.summary(best, points)
    places = summary.reset_index(names="_place")[[*ENTRY, "_place"]]
    best = best.merge(places, on=ENTRY).sort_values("_place", kind="stable", ignore_index=True).drop(columns="_place")
    tuning = tables.tuning(trials, best)
    rankings = scores.rankings(trials)
    return Digest(
        rankings=rankings,
        overall=headline.overall(rankings),
        trials=trials,
        points=points,
        best=best,
        summary=summary,
        tuning=tuning,
        headlines=headline.sentences(best, summary, rankings),
        warnings=cautions.found(trials, tuning),
        styles=palette.assign(trials["submission"]),
    )


def contents(of: Digest, *, predicted: pd.DataFrame | None = None) -> list[Section]:
    """The sections of the report in order.

    Args:
        predicted: bytes by part per workload and submission, as `slimperf memory --csv` writes them.
    """
    memory = sections.memory(of.best, predicted)
    if memory is not None:
        memory = replace(
            memory, figures=(*memory.figures, *sections.tradeoff(of.summary, of.styles), *sections.capped(of.trials, of.styles))
        )
    found = [
        sections.result(of.best, of.summary, of.styles),
        sections.training(of.best, of.points, of.styles),
        sections.score(of.rankings, of.styles),
        sections.perplexity(of.best, of.points),
        memory,
        sections.speedup(of.trials, of.points, of.summary, of.styles),
        sensitivity.section(of.trials, of.points, of.tuning, of.styles),
        sections.status(of.trials),
        sections.protocol(of.trials),
        Section(anchor="reproduce", title="Reproduce", commands="\n".join(commands(of.best))),
    ]
    return embedding.distinct(section for section in found if section is not None)


def html(of: Digest, parts: Sequence[Section], *, title: str) -> str:
    """The page made of these sections."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        overall=of.overall,
        headlines=list(of.headlines.values()),
        warnings=of.warnings,
        facts=_facts(of.trials, of.points),
        sections=parts,
        styles=of.styles,
        inline=embedding.inline,
        link=embedding.link,
        light=palette.LIGHT,
        dark=palette.DARK,
        schema=SCHEMA,
    )


def export(parts: Sequence[Section], folder: Path) -> list[Path]:
    """Every figure as PNG and SVG, and every table as text, Markdown, LaTeX and CSV, in `figures` and `tables` below `folder`."""
    written = []
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    formats = {"txt": render.text, "md": render.markdown, "tex": render.latex}
    for part in parts:
        for figure in part.figures:
            written += figures.save(figure.drawing, folder / "figures" / figure.name)
        for table in part.tables:
            shown = table.data if table.shown is None else table.shown
            contents = {ending: write(shown) for ending, write in formats.items()} | {"csv": render.csv(table.data)}
            for ending, text in contents.items():
                written.append(folder / "tables" / f"{table.name}.{ending}")
                written[-1].write_text(text, encoding="utf-8")
    return written


def words(of: Digest) -> str:
    """The result for a terminal: a table and a sentence per workload, then the warnings."""
    lines = []
    for workload, rows in of.summary.groupby("workload", sort=True):
        names = [*(name for name in ("ruleset", "fingerprint") if rows[name].nunique() > 1), *PRINTED]
        lines += [str(workload), "", render.text(tables.filled(rows[_with_ends(names, rows)])), of.headlines[str(workload)], ""]
    return "\n".join([*lines, *of.overall, *(f"warning: {sentence}" for sentence in of.warnings)]).rstrip() + "\n"


def commands(best: pd.DataFrame) -> list[str]:
    """What to type to run again what the report shows: one line per study, workload and submission."""
    lines = []
    for (study, workload, submission), rows in best.groupby(["study", *CELL], sort=False):
        first = rows.iloc[0]
        source = str(first.get("source_file") or "")
        name = source if source.endswith(".py") and Path(source).is_absolute() else str(submission)
        columns = [column for column in rows.columns if column.startswith("hp.")]
        settings = [f"{column.removeprefix('hp.')}={tables.plain(first[column])}" for column in columns if _set(first[column])]
        seeds = sorted(set(rows["seed"].astype(int)))
        changes = naming.overrides(str(workload))
        words = ["slimperf", "run", name, "--workload", naming.base(str(workload)), "--study", str(study), "--seeds", *map(str, seeds)]
        words += ["--override", *changes] if changes else []
        words += ["--stop", "budget"] if first["stop"] == "budget" else []
        lines.append(shlex.join([*words, "--set", *settings] if settings else words))
    rest = len(lines) - COMMANDS
    return lines[:COMMANDS] + ([f"# and {rest} more; the records hold every trial's settings"] if rest > 0 else [])


def _facts(trials: pd.DataFrame, points: pd.DataFrame) -> str:
    counts = {
        "workload": trials["workload"].nunique(),
        "submission": trials["submission"].nunique(),
        "trial": len(trials),
        "measured value": len(points),
    }
    return ", ".join(f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in counts.items())


def _with_ends(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    wanted = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    return [column for column in wanted if column in table.columns]


def _set(value: object) -> bool:
    return value is not None and value == value
