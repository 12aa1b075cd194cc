"""Memory by part, stacked, per submission."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import palette, render
from analysis.figures import canvas

PARTS = {
    "bytes_weights": ("weights", "#5d6570"),
    "bytes_gradients": ("gradients", "#a9b0ba"),
    "bytes_state": ("optimizer state", "#053c92"),
    "bytes_activations": ("activations", "#da8500"),
    "bytes_refresh": ("transient of the refresh", "#a14c8d"),
}


def memory(table: pd.DataFrame) -> Figure:
    """Stacked bars of bytes by part, least on top, one panel per workload; a tick marks the measured peak.

    Args:
        table: one row per workload and submission, as `tables.memory` gives.
    """
    parts = [part for part in PARTS if part in table.columns]
    if not parts:
        raise ValueError(f"no column of memory by part; expected some of {', '.join(PARTS)}")
    groups = list(table.groupby("workload", sort=False))
    most = max(len(rows) for _, rows in groups)
    entries: dict[str, Any] = {}
    with canvas.house_style():
        figure, panels = canvas.panels(len(groups), height=1.4 + 0.32 * most)
        for axes, (workload, rows) in zip(panels, groups, strict=True):
            ordered = rows.iloc[rows[parts].sum(axis=1).argsort(kind="stable")].reset_index(drop=True)
            peaks = ordered.get("bytes_peak", pd.Series(dtype=float)).dropna()
            unit, factor = render.binary_unit(max(float(ordered[parts].sum(axis=1).max()), float(peaks.max() if len(peaks) else 0)))
            left = pd.Series(0.0, index=ordered.index)
            for part in parts:
                name, colour = PARTS[part]
                width = ordered[part].fillna(0.0) / factor
                entries[name] = axes.barh(ordered.index, width, left=left, height=0.62, color=colour)
                left += width
            (entries["measured peak"],) = axes.plot(peaks / factor, peaks.index, "|", color=palette.INK, markersize=13, markeredgewidth=1.6)
            axes.set_yticks(ordered.index, list(ordered["submission"]))
            axes.set(title=workload, xlabel=f"memory ({unit})", ylim=(len(ordered) - 0.45, -0.55))
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.06)
        canvas.legend(figure, entries, columns=3)
    return figure
