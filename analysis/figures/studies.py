"""Ablations as bars, scaling factors against each other, and values over the steps of a training."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis import palette, spread
from analysis.figures import canvas
from analysis.figures.training import VALUES

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def bars(runs: pd.DataFrame, *, y: str, by: str = "variant", line: str | None = None) -> Figure:
    """Geometric mean of `y` per variant with its 95 % interval over seeds, every trial as a dot, lowest on top.

    Args:
        line: a variant whose mean is drawn across, to compare with.
    """
    table = spread.over(runs, y, by=[by], logarithmic=True).dropna(subset=[y]).sort_values(y, kind="stable", ignore_index=True)
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1, width=6.4, height=1.2 + 0.3 * len(table))
        for place, (_, row) in enumerate(table.iterrows()):
            colour = palette.LIGHT[0] if row[by] == line else palette.LIGHT[1]
            dots = runs.loc[runs[by] == row[by], y].astype(float)
            axes.plot(dots, [place] * len(dots), ".", color=palette.MUTED, markersize=4, zorder=2)
            axes.plot(row[y], place, "o", color=colour, zorder=3)
            if np.isfinite(row[f"{y}_low"]):
                axes.hlines(place, row[f"{y}_low"], row[f"{y}_high"], color=colour, linewidth=1.8)
        if line in set(table[by]):
            axes.axvline(
                float(table.loc[table[by] == line, y].iloc[0]), color=palette.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1
            )
        cut = canvas.frame(axes, runs[y].astype(float), table[f"{y}_low"], table[f"{y}_high"], places=range(len(table)))
        axes.set_yticks(range(len(table)), [str(value) for value in table[by]])
        axes.set(xlabel=VALUES.get(y, y.replace("_", " ")), ylim=(len(table) - 0.45, -0.55))
        canvas.note(figure, "dots: trials; circle and bar: mean and 95 % interval over seeds", cut=cut)
    return figure


def scatter(x: pd.Series, y: pd.Series, *, names: tuple[str, str]) -> Figure:
    """Scaling factors of two trainings against each other, as values on logarithmic axes and as ranks; colours are roles.

    Args:
        x: factors by matrix name; `y` has the same index.
    """
    roles = [_role(str(name)) for name in x.index]
    kinds = sorted(set(roles))
    entries = {}
    with canvas.house_style():
        figure, panels = canvas.panels(2, width=4.2, height=3.9)
        for axes, (across, up), what in (
            (panels[0], (x.to_numpy(float), y.to_numpy(float)), "scaling factor"),
            (panels[1], (stats.rankdata(x), stats.rankdata(y)), "rank of the scaling factor"),
        ):
            for slot, kind in enumerate(kinds):
                mine = np.array([role == kind for role in roles])
                style = palette.Style(slot=slot)
                (entries[kind],) = axes.plot(across[mine], up[mine], style.marker, color=style.colour, linestyle="none")
            ends = [min(across.min(), up.min()), max(across.max(), up.max())]
            axes.plot(ends, ends, color=palette.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
            axes.set(xlabel=f"{what}, {names[0]}", ylabel=f"{what}, {names[1]}")
        for axis in "xy":
            canvas.logarithmic(panels[0], axis)
        canvas.legend(figure, entries, columns=7)
        canvas.note(figure, "dashed: equal values")
    return figure


def ratios(x: pd.Series, y: pd.Series, *, names: tuple[str, str]) -> Figure:
    """Heat map of log2 of the ratio of two trainings' scaling factors, by layer and role."""
    table = pd.DataFrame({"value": np.log2(x / y), "layer": [_layer(str(n)) for n in x.index], "role": [_role(str(n)) for n in x.index]})
    grid = table.pivot_table(index="role", columns="layer", values="value")
    most = float(np.nanmax(np.abs(grid.to_numpy(float))))
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1, width=max(canvas.WIDTH, 1.8 + 0.34 * grid.shape[1]), height=1.2 + 0.3 * grid.shape[0])
        image = axes.imshow(grid.to_numpy(float), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        axes.set_xticks(range(grid.shape[1]), [str(layer) for layer in grid.columns])
        axes.set_yticks(range(grid.shape[0]), [str(role) for role in grid.index])
        axes.set(xlabel="layer")
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label=f"log2 of {names[0]} / {names[1]}")
    return figure


def series(table: pd.DataFrame, *, y: str, hue: str, label: str, panel: str | None = None, logarithmic: bool = False) -> Figure:
    """`y` over `step`: a line per value of `hue` (mean over all other rows of a step), a panel per value of `panel`."""
    groups = [(None, table)] if panel is None else list(table.groupby(panel, sort=True))
    names, entries = list(dict.fromkeys(table[hue])), {}
    with canvas.house_style():
        figure, panels = canvas.panels(len(groups))
        for axes, (title, rows) in zip(panels, groups, strict=True):
            for slot, name in enumerate(names):
                means = rows[rows[hue] == name].groupby("step")[y].mean()
                style = palette.Style(slot=slot)
                look = {"color": style.colour, "linestyle": style.dash, "marker": style.marker, "markersize": 3}
                (entries[str(name)],) = axes.plot(means.index, means, **look)
            axes.set(xlabel="optimizer steps", ylabel=label)
            if title is not None:
                axes.set_title(str(title))
            if logarithmic:
                canvas.logarithmic(axes, "y")
        canvas.legend(figure, entries)
    return figure


def across(axes: Axes, value: float, words: str) -> None:
    """A labelled line at a reference value."""
    axes.axhline(value, color=palette.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        words, (1.0, value), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=palette.MUTED,
    )  # fmt: skip


def _role(name: str) -> str:
    """`attn.q` of `layers.0.attn.q.weight`."""
    return LAYER.sub("", name).removesuffix(".weight")


def _layer(name: str) -> int:
    found = LAYER.search(name)
    return int(found.group(1)) if found else -1
