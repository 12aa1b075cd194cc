"""What a reader must know before believing a report: one sentence for each thing that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis import notes, tables
from analysis.figures import canvas
from analysis.tables import CELL

MOST = 6
"""Names listed in one sentence before the rest is only counted."""


def found(trials: pd.DataFrame, tuning: pd.DataFrame) -> list[str]:
    """Sentences about these trials, the gravest first; an empty list is good news.

    Args:
        tuning: what `tables.tuning` gives for them.
    """
    return [
        *notes.conditions(trials),
        *_settings(trials),
        *_gaps(trials),
        *_seeds(trials),
        *_selection(tuning),
        *_edges(tuning),
        *_letters(trials),
        *trials.attrs.get("replaced", []),
        *_problems(trials),
    ]


CONDITIONS = (
    "device",
    "threads",
    "devices",
    "precision",
    "micro",
    "checkpointing",
    "layerwise",
    "shard_state",
    "compile",
    "evaluate_every",
    "hardware",
)
"""Settings that must not differ among trials that are compared; the load of the machine and what was asked for may."""


def _settings(trials: pd.DataFrame) -> Iterator[str]:
    settings = [
        name for name in trials.columns if name.removeprefix("settings.").split(".")[0] in CONDITIONS and name.startswith("settings.")
    ]
    for workload, rows in trials.groupby("workload"):
        mixed = [name.removeprefix("settings.") for name in settings if rows[name].astype("str").nunique() > 1]
        if mixed:
            yield f"{workload}: trials differ in how they ran ({', '.join(mixed)})"


def _gaps(trials: pd.DataFrame) -> Iterator[str]:
    for workload, rows in trials.groupby("workload"):
        # A planned trial that never started leaves no file; a gap in the seeds is how it shows.
        seeds = rows.groupby("submission")["seed"].agg(frozenset)
        lacking = {name: sorted(frozenset(rows["seed"]) - have) for name, have in seeds.items()}
        gaps = [f"{name} (seed {notes.listed(map(str, absent))})" for name, absent in lacking.items() if absent]
        if gaps:
            yield f"{workload}: not every submission ran every seed; missing are {notes.listed(gaps)}"


def _seeds(trials: pd.DataFrame) -> Iterator[str]:
    table = tables.configured(trials)
    # Independent tuning studies repeat a search as seeds repeat a configuration.
    table = table[table.groupby(CELL)["tuning_study"].transform("nunique") == 1]
    counts = table.groupby([*CELL, "configuration"])["seed"].nunique()
    single = counts[counts == 1].reset_index()
    if len(single):
        names = notes.listed(sorted(set(single["submission"])))
        yield f"only one seed for {names}: no interval is given there, because a single run says nothing about its spread"


def _selection(tuning: pd.DataFrame) -> Iterator[str]:
    tried = tuning.groupby("submission")["configurations"].max()
    if tried.max() > 1:
        yield (
            "the best of several configurations is shown, chosen on the seeds that it is shown with, so it looks better than it is; "
            + (f"effort differed: {_effort(tried)}" if tried.nunique() > 1 else f"every submission had {tried.max()}")
        )


def _edges(tuning: pd.DataFrame) -> Iterator[str]:
    for (workload, edge), rows in tuning.dropna(subset=["edge"]).groupby(["workload", "edge"], sort=False):
        names = notes.listed(sorted(set(rows["submission"])))
        yield f"{workload}: the best value of {names} lies at the edge of the space ({edge}); a wider search may do better"


def _letters(trials: pd.DataFrame) -> Iterator[str]:
    letters = canvas.undrawable({str(name) for column in CELL for name in trials[column]})
    if letters:
        yield (
            f"no font here has the letters {' '.join(letters[:MOST])}{' and others' if len(letters) > MOST else ''} of names: "
            "figures show boxes in their place; install a font that has them, such as Noto Sans CJK"
        )


def _problems(trials: pd.DataFrame) -> Iterator[str]:
    problems = list(trials.attrs.get("problems", []))
    yield from (f"record file {problem}" for problem in problems[:MOST])
    if len(problems) > MOST:
        yield f"{len(problems) - MOST} more record files could not be read whole"


def _effort(tried: pd.Series) -> str:
    return ", ".join(f"{name} {count}" for name, count in tried.sort_values(ascending=False).head(MOST).items())
