"""Who is first: time to target, performance profiles, scores, and what they cost in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import palette, render, spread
from analysis import pareto as fronts
from analysis.figures import canvas

LABELS = {"reached_seconds": "on-clock time to target (s)", "reached_step": "steps to target"}


def time_to_target(trials: pd.DataFrame, column: str = "reached_seconds", *, styles: palette.Styles | None = None) -> Figure:
    """Median and 95 % interval per submission, fastest on top, with every trial as a small dot; one panel per workload.

    A submission of which some trials missed has no interval, and the figure says how many.
    """
    styles = styles or palette.assign(trials["submission"])
    groups = list(trials.groupby("workload", sort=False))
    most = max(rows["submission"].nunique() for _, rows in groups)
    with canvas.house_style():
        figure, panels = canvas.panels(len(groups), height=1.15 + 0.32 * most)
        cut = False
        for axes, (workload, rows) in zip(panels, groups, strict=True):
            cut |= _race(axes, rows, column, styles)
            axes.set(title=workload, xlabel=LABELS.get(column, column))
        canvas.note(figure, "large: median over trials, with its 95 % interval; small: single trials", cut=cut)
    return figure


def _race(axes: Axes, trials: pd.DataFrame, column: str, styles: palette.Styles) -> bool:
    """One panel; whether an interval goes on beyond it."""
    table = spread.times(trials, column, by=["submission"]).sort_values(column, kind="stable", ignore_index=True)
    for place, (_, row) in enumerate(table.iterrows()):
        name, centre = str(row["submission"]), float(row[column])
        style = styles[name]
        values = trials.loc[trials["submission"] == name, column].dropna()
        axes.plot(values, np.full(len(values), place), "o", color=style.colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
        if np.isfinite(centre):
            if np.isfinite(row[f"{column}_low"]):
                axes.hlines(place, row[f"{column}_low"], row[f"{column}_high"], color=style.colour, linewidth=2.2)
            axes.plot(centre, place, style.marker, color=style.colour, markersize=7)
        if row["reached"] < row["n"]:
            axes.annotate(
                f"{row['n'] - row['reached']:.0f} of {row['n']} missed", (0.995, place), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", xytext=(0, 2), textcoords="offset points", fontsize=8, color=palette.MUTED,
            )  # fmt: skip
    axes.set_yticks(range(len(table)), list(table["submission"]))
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    times = trials[column].astype(float)
    if not np.isfinite(times).any():
        axes.set_xticks([])
        return False
    return canvas.frame(axes, times, table[f"{column}_low"], table[f"{column}_high"], places=table.index, floor=0.0)


def profile(table: pd.DataFrame, *, styles: palette.Styles | None = None) -> Figure:
    """Share of workloads solved within a multiple of the fastest time, as a staircase per submission.

    Args:
        table: columns `submission`, `tau` (time over the fastest), `fraction` (of workloads), as `profiles.profile` gives it.
    """
    styles, entries = styles or palette.assign(table["submission"]), {}
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1)
        for name, rows in table.groupby("submission", sort=False):
            style = styles[str(name)]
            (entries[str(name)],) = axes.step(rows["tau"], rows["fraction"], where="post", color=style.colour, linestyle=style.dash)
        axes.set(xlabel="time over the fastest time (ratio)", ylabel="share of workloads solved", ylim=(-0.03, 1.05))
        axes.set_xlim(1.0, float(table["tau"].max()))
        canvas.legend(figure, entries)
    return figure


def scores(table: pd.DataFrame, *, styles: palette.Styles | None = None) -> Figure:
    """Bars with 95 % intervals, best on top. Columns as `scores.leaderboard` gives them: `submission`, `score`, `low`, `high`."""
    styles = styles or palette.assign(table["submission"])
    table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1, height=1.0 + 0.32 * len(table))
        colours = [styles[name].colour for name in table["submission"]]
        axes.barh(table.index, table["score"], height=0.62, color=colours)
        shown = table[table["low"].notna()]
        axes.hlines(shown.index, shown["low"], shown["high"], color=palette.INK, linewidth=1.3)
        for end in ("low", "high"):
            axes.plot(shown[end], shown.index, "|", color=palette.INK, markersize=6)
        if len(shown):
            canvas.note(figure, "bracket: 95 % interval")
        axes.set_yticks(table.index, list(table["submission"]))
        axes.set(xlabel="score (1: fastest everywhere)", xlim=(0, 1.02), ylim=(len(table) - 0.45, -0.55))
        axes.grid(visible=False, axis="y")
    return figure


def score_against(table: pd.DataFrame, x: str, *, styles: palette.Styles | None = None) -> Figure:
    """Score as a staircase over a limit, such as a cap on memory. Columns: `submission`, `x`, `score`; as `pareto.curve` gives."""
    styles, entries = styles or palette.assign(table["submission"]), {}
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1)
        factor, label = _scaled(table[x], x)
        for name, rows in table.sort_values(x).groupby("submission", sort=False):
            style = styles[str(name)]
            (entries[str(name)],) = axes.step(rows[x] * factor, rows["score"], where="post", color=style.colour, linestyle=style.dash)
        axes.set(xlabel=label, ylabel="score (1: fastest everywhere)", ylim=(-0.03, 1.05))
        canvas.legend(figure, entries)
    return figure


def pareto(table: pd.DataFrame, *, x: str = "bytes_peak", y: str = "reached_seconds", styles: palette.Styles | None = None) -> Figure:
    """Two costs per submission, smaller is better in both; a line joins those that none beats in both.

    Args:
        table: what `tables.summary` gives, for one workload; rows without both values are left out.
    """
    styles, entries = styles or palette.assign(table["submission"]), {}
    known = table[np.isfinite(table[x].astype(float)) & np.isfinite(table[y].astype(float))].sort_values([x, y])
    known = fronts.front(known, axes=(x, y), within=None)
    front = known[known["front"]]
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1)
        (across, xlabel), (up, ylabel) = _scaled(known[x], x), _scaled(known[y], y)
        axes.step(front[x] * across, front[y] * up, where="post", color=palette.MUTED, linewidth=1.0, zorder=1)
        for _, row in known.iterrows():
            style = styles[row["submission"]]
            place = (row[x] * across, row[y] * up)
            if f"{y}_low" in row and np.isfinite(row[f"{y}_low"]):
                axes.vlines(place[0], row[f"{y}_low"] * up, row[f"{y}_high"] * up, color=style.colour, linewidth=1.6)
            (entries[row["submission"]],) = axes.plot(*place, style.marker, color=style.colour, markersize=7, linestyle="none")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(0.12)
        lows, highs = (known.get(f"{y}_{end}", pd.Series(np.nan, index=known.index)) * up for end in ("low", "high"))
        cut = len(known) > 0 and canvas.frame(axes, known[y] * up, lows, highs, places=known[x] * across, axis="y")
        canvas.note(figure, "line: submissions that none beats in both; bars: 95 % interval", cut=cut)
        canvas.legend(figure, entries)
    return figure


def _scaled(values: Any, name: str) -> tuple[float, str]:
    """Factor and axis label that turn bytes into the unit one reads best."""
    if "bytes" not in name and name != "cap":
        return 1.0, LABELS.get(name, name.replace("_", " "))
    unit, factor = render.binary_unit(float(values.max()))
    return 1 / factor, f"{render.HEADINGS.get(name, name.removeprefix('bytes_').replace('_', ' '))} ({unit})"
