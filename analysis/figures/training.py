"""Loss against steps, tokens, or on-clock seconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import palette
from analysis.figures import canvas

AXES = {"step": "optimizer steps", "tokens": "tokens (millions)", "seconds": "on-clock time (s)"}
VALUES = {
    "val_loss": "validation loss (nats/token)",
    "train_loss": "training loss (nats/token)",
    "val_ppl": "validation perplexity",
    "legacy_ppl": "perplexity, N/(N+1) convention",
    "reached_seconds": "time to target (s)",
}


def curves(table: pd.DataFrame, *, targets: Mapping[str, float] | None = None, styles: palette.Styles | None = None) -> Figure:
    """Median over trials as a line and the 5th to 95th percentile as a band, one panel per workload.

    Args:
        table: what `analysis.curves.thinned` gives.
        targets: the value to reach, by workload; drawn as a line across.
    """
    x = next(name for name in AXES if name in table.columns)
    name = next(column.removesuffix("_low") for column in table.columns if column.endswith("_low"))
    styles = styles or palette.assign(table["submission"])
    groups = list(table.groupby("workload", sort=False))
    if not groups:
        raise ValueError("no curve to draw: the table has no rows; was the value recorded as a point by any of the trials?")
    entries: dict[str, Line2D] = {}
    with canvas.house_style():
        figure, panels = canvas.panels(len(groups))
        for axes, (workload, rows) in zip(panels, groups, strict=True):
            entries |= _panel(axes, rows, x, name, styles)
            if targets and np.isfinite(targets.get(str(workload), np.nan)):
                _target(axes, targets[str(workload)])
            axes.set(title=workload, xlabel=AXES[x], ylabel=VALUES.get(name, name))
        canvas.legend(figure, entries)
        if table["n"].max() > 1:
            canvas.note(figure, f"line: median of up to {table['n'].max()} trials; band: 5th to 95th percentile")
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, x: str, name: str, styles: palette.Styles) -> dict[str, Line2D]:
    scale = 1e-6 if x == "tokens" else 1.0
    tops, lines = [], {}
    # In reverse, so that the first of the table (the fastest) is drawn on top; the legend keeps the table's order.
    for order, (submission, curve) in enumerate(rows.groupby("submission", sort=False)):
        style, places = styles[str(submission)], curve[x] * scale
        line = {"color": style.colour, "linestyle": style.dash, "zorder": 3 - order / 100}
        if len(curve) == 1:
            line |= {"marker": style.marker}
        (lines[str(submission)],) = axes.plot(places, curve[name], **line)
        if curve["n"].max() > 1:
            axes.fill_between(places, curve[f"{name}_low"], curve[f"{name}_high"], color=style.colour, alpha=0.18, linewidth=0)
        span = rows[x].max() * 0.1 * scale
        tops.append(np.interp(span, places, curve[f"{name}_high"]))
    low, high = rows[f"{name}_low"].min(), float(np.max(tops))
    # The first tenth of a training would use most of the height; it may leave the frame.
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.03 * (high - low))
    axes.set_xlim(left=0)
    return lines


def _target(axes: Axes, value: float) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, value - 0.04 * (high - low)), max(high, value + 0.08 * (high - low)))
    axes.axhline(value, color=palette.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"target {value:,.4g}", (1.0, value), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=palette.MUTED,
    )  # fmt: skip
