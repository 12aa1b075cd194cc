"""A result against hyperparameters: lines over one of them, heat maps over two."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis import palette, spread, tables
from analysis.figures import canvas
from analysis.figures.training import VALUES

LETTERS = 50
"""How many letters of a tick's label fit under an axis."""


def against(final: pd.DataFrame, *, x: str, y: str, hue: str = "submission", styles: palette.Styles | None = None) -> Figure:
    """Mean of `y` (smaller is better) with its 95 % interval over seeds against `x`, one line per value of `hue`.

    A numeric `x` that spans more than a factor of eight is drawn on a logarithmic axis; text becomes categories. Where a trial was
    lost (has no `y`: it diverged, ran out of memory, missed the target) an open mark shows the median with that trial as infinite, and
    a cross at the upper edge says that this is infinite.

    Args:
        final: one row per trial, as `tables.final` gives, with columns such as `hp.rank`.
    """
    rows = _with(final, x, y, hue)
    table = spread.surviving(rows, y, by=[hue, x])
    numeric = pd.to_numeric(table[x], errors="coerce").notna().all() and not table[x].map(lambda value: isinstance(value, bool)).any()
    order = sorted(table[x].unique(), key=(lambda value: (0, float(value), "")) if numeric else (lambda value: (1, 0.0, str(value))))
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(order)}
    table = table.assign(_x=table[x].map(places))
    entries, cut = {}, False
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1)
        for value, line, style in _lines(table, hue, styles):
            entries[_text(hue, value)] = _line(axes, line.sort_values("_x"), y, style)
        axes.set(xlabel=_name(x), ylabel=VALUES.get(y, _name(y)))
        if not numeric:
            axes.set_xticks(range(len(order)), [tables.plain(value) for value in order])
        elif min(places.values()) > 0 and max(places.values()) > 8 * min(places.values()):
            axes.set_xscale("log")
            _tick_at_values(axes, list(places.values()))
        axes.margins(x=0.06, y=0.1)
        if np.isfinite(rows[y].astype(float)).any():
            cut = canvas.frame(axes, rows[y].astype(float), table[f"{y}_low"], table[f"{y}_high"], places=table["_x"], axis="y")
        canvas.legend(figure, entries)
        lost = "\nopen: median, trials without a result counting as infinite; cross: it is infinite" if table["lost"].any() else ""
        canvas.note(figure, f"bars: 95 % interval over seeds{', arrow: it goes on' if cut else ''}{lost}")
    return figure


def heatmap(final: pd.DataFrame, *, x: str, y: str, value: str) -> Figure:
    """Mean of `value` over seeds for each pair of two hyperparameters, with half its 95 % interval where there is one.

    Darker is smaller, and smaller is better. An empty cell was not run. Where trials were lost (have no `value`) the cell says how many,
    and shows the median with those infinite; where half of them or more were, it is hatched and has no colour.
    """
    rows = _with(final, x, y, value)
    table = spread.surviving(rows, value, by=[y, x])
    means = table.pivot(index=y, columns=x, values=value)
    means = means.loc[_sorted(means.index), _sorted(means.columns)]
    table = table.assign(half=(table[f"{value}_high"] - table[f"{value}_low"]) / 2).set_index([y, x])
    with canvas.house_style():
        size = {"width": max(canvas.WIDTH, 1.6 + 0.85 * means.shape[1]), "height": max(2.4, 1.2 + 0.5 * means.shape[0])}
        figure, (axes,) = canvas.panels(1, **size)
        image = axes.imshow(means.where(np.isfinite(means)).to_numpy(float), cmap="cividis", aspect="auto")
        for i, row in enumerate(means.index):
            for j, column in enumerate(means.columns):
                if (row, column) in table.index:
                    _cell(axes, i, j, table.loc[(row, column)], value, image)
        axes.set_xticks(range(means.shape[1]), [tables.plain(name) for name in means.columns])
        axes.set_yticks(range(means.shape[0]), [tables.plain(name) for name in means.index])
        axes.set(xlabel=_name(x), ylabel=_name(y))
        axes.grid(visible=False)
        if np.isfinite(means).any(axis=None):
            figure.colorbar(image, ax=axes, label=VALUES.get(value, _name(value)))
        if table["lost"].any():
            words = "lost: trials without a result; a number beside it is a median that counts them as infinite"
            canvas.note(figure, f"{words}\nhatched: half of them or more were lost")
    return figure


def _with(final: pd.DataFrame, *columns: str) -> pd.DataFrame:
    for column in columns:
        if column not in final.columns:
            known = ", ".join(sorted(name for name in map(str, final.columns) if name.startswith("hp.") or name == "submission"))
            raise ValueError(f"no column {column!r} in this table; hyperparameters here: {known}")
    axes = [column for column in columns if column.startswith("hp.")]
    return final.dropna(subset=axes)


def _lines(table: pd.DataFrame, hue: str, styles: palette.Styles | None) -> list[tuple[Any, pd.DataFrame, palette.Style]]:
    groups = list(table.groupby(hue, sort=hue != "submission"))
    if hue == "submission":
        named = styles or palette.assign(str(value) for value, _ in groups)
        return [(value, rows, named[str(value)]) for value, rows in groups]
    return [(value, rows, palette.Style(slot=slot)) for slot, (value, rows) in enumerate(groups)]


def _line(axes: Axes, rows: pd.DataFrame, y: str, style: palette.Style) -> Line2D:
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker}
    finite, whole = np.isfinite(rows[y]), rows["lost"] == 0
    (line,) = axes.plot(rows["_x"], rows[y].where(finite), **look, linestyle=style.dash, markevery=whole.to_numpy(bool))
    thinned = rows[finite & ~whole]
    axes.plot(thinned["_x"], thinned[y], **look, linestyle="none", markerfacecolor="none")
    spans = rows[rows[f"{y}_low"].notna()]
    axes.vlines(spans["_x"], spans[f"{y}_low"], spans[f"{y}_high"], color=style.colour, linewidth=1.2)
    beyond = rows.loc[~finite, "_x"]
    axes.plot(beyond, np.full(len(beyond), 0.975), "x", color=style.colour, transform=axes.get_xaxis_transform(), markersize=6)
    return line


def _tick_at_values(axes: Axes, values: list[float]) -> None:
    """Ticks of a logarithmic axis where something was measured, thinned so that their labels do not touch."""
    widest = max(len(f"{value:g}") for value in values)
    apart = (max(values) / min(values)) ** ((widest + 2) / LETTERS)
    shown = [min(values)]
    for value in sorted(values):
        if value >= apart * shown[-1]:
            shown.append(value)
    axes.set_xticks(shown, [f"{value:g}" for value in shown])
    axes.set_xticks([], minor=True)


def _cell(axes: Axes, i: int, j: int, entry: pd.Series, value: str, image: Any) -> None:
    mean, half = float(entry[value]), float(entry["half"])
    lost = f"{entry['lost']:.0f} of {entry['n'] + entry['lost']:.0f} lost"
    if not np.isfinite(mean):
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor=palette.GRID, hatch="///", linewidth=0))
        axes.text(j, i, lost, ha="center", va="center", fontsize=8, color=palette.MUTED)
        return
    red, green, blue, _ = image.cmap(image.norm(mean))
    ground = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    words = f"{mean:.4g}" + (f"\n{lost}" if entry["lost"] else f"\n\u00b1{half:.2g}" if np.isfinite(half) else "")
    axes.text(j, i, words, ha="center", va="center", fontsize=8, color="#000000" if ground > 0.45 else "#fffffe")


def _sorted(values: Any) -> list[Hashable]:
    return sorted(values, key=lambda item: (0, float(item), "") if isinstance(item, int | float | np.number) else (1, 0.0, str(item)))


def _name(column: str) -> str:
    return column.removeprefix("hp.").replace("_", " ")


def _text(hue: str, value: Any) -> str:
    return str(value) if hue == "submission" else f"{_name(hue)} {tables.plain(value)}"
