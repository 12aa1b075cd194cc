"""How results depend on hyperparameters, and what was spent to find out: the report's part on tuning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd

from analysis import figures, palette, sections, spread, tables
from analysis.embedding import Figure, Section, Table
from runner.record import FINISHED

MOST = 6
"""Figures of one kind, so that a sweep over everything still makes a page that can be read."""
WHOLE = 0.6
"""Part of the pairs of two hyperparameters' values that must have run for a heat map of them."""


def section(trials: pd.DataFrame, points: pd.DataFrame, spent: pd.DataFrame, styles: palette.Styles) -> Section:
    """What was spent on each submission, and how the result depends on each hyperparameter that was varied, and on pairs of them."""
    note = "Everything that was run for each submission, whatever came of it."
    if spent["edge"].notna().any():
        note += " The last column names best values at the border of what was tried."
    # A trial that still runs has no result either, and is not lost.
    final = tables.final(trials[trials["status"].isin(FINISHED)], points, name="val_loss")
    drawings = [*itertools.islice(curves(final, styles), MOST), *itertools.islice(maps(final), MOST)]
    table = Table(name="tuning", caption=note, data=spent, shown=tables.filled(spent))
    return Section(anchor="tuning", title="Tuning budget", tables=(table,), figures=tuple(drawings))


def curves(final: pd.DataFrame, styles: palette.Styles) -> Iterator[Figure]:
    """The outcome against each hyperparameter with at least three values, a line per submission.

    Args:
        final: as `tables.final` gives for `val_loss`.
    """
    for where, rows in sections.races(final):
        y, words = _outcome(rows)
        for x in _axes(rows, y):
            lowest = tables.lowest(rows, x=x, y=y)
            drawing = figures.against(lowest, x=x, y=y, styles=styles)
            caption = f"{words} on {where} against {x.removeprefix('hp.')}, every other hyperparameter at its best."
            data = spread.surviving(lowest, y, by=["submission", x])
            yield Figure(name=f"against-{x}-{where}", caption=caption, drawing=drawing, data=data)


def maps(final: pd.DataFrame) -> Iterator[Figure]:
    """Heat maps of the outcome over two hyperparameters, for each submission that ran most of a grid of them.

    Args:
        final: as `tables.final` gives for `val_loss`.
    """
    entries = ((where, name, rows) for where, race in sections.races(final) for name, rows in race.groupby("submission", sort=False))
    for where, submission, rows in entries:
        y, words = _outcome(rows)
        for down, across in _pairs(rows, y):
            lowest = tables.lowest(rows, x=[down, across], y=y)
            drawing = figures.heatmap(lowest, x=across, y=down, value=y)
            names = f"{down.removeprefix('hp.')} and {across.removeprefix('hp.')}"
            caption = f"{words} of {submission} on {where} over {names}; darker is smaller. All else at its best."
            data = spread.surviving(lowest, y, by=[down, across])
            name = f"map-{down}-{across}-{submission}-{where}"
            yield Figure(name=name, caption=caption, drawing=drawing, data=data)


def _outcome(rows: pd.DataFrame) -> tuple[str, str]:
    """What tells trials apart: time to target where they stop there (all then end with about that loss), else the final loss."""
    raced = (rows["stop"] == "target").all() and rows["reached_seconds"].notna().any()
    return ("reached_seconds", "Time to target") if raced else ("val_loss", "Final loss")


def _axes(rows: pd.DataFrame, y: str) -> list[str]:
    """Hyperparameters with at least three values for some submission and with results to show."""
    names = [name for name in rows.columns if name.startswith("hp.")]
    known = rows[rows[y].notna()]
    if known.empty or not names:
        return []
    counts = known.astype(dict.fromkeys(names, "str")).groupby("submission")[names].nunique().max()
    return [name for name in names if counts[name] >= 3]


def _pairs(rows: pd.DataFrame, y: str) -> Iterator[tuple[str, str]]:
    """Pairs of hyperparameters of which most combinations ran: at least two values times three; the shorter axis first."""
    known = rows[rows[y].notna()]
    names = [name for name in rows.columns if name.startswith("hp.")]
    varied = [name for name in names if known[name].dropna().astype("str").nunique() > 1]
    for pair in itertools.combinations(varied, 2):
        texts = known[list(pair)].dropna().astype("str").drop_duplicates()
        counts = texts.nunique()
        down, across = sorted(pair, key=lambda name: counts[name])
        if counts[down] >= 2 and counts[across] >= 3 and len(texts) >= WHOLE * counts[down] * counts[across]:
            yield down, across
