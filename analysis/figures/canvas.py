"""Paper and frame of every figure: size, type, axes, legend, and files that come out the same every time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import palette

WIDTH, HEIGHT = 4.9, 3.3
"""Inches of one panel: nearly a column of a paper, and 9 pt type stays readable on a telephone."""
LEGEND_ROW = 0.18
"""Inches of one row of a legend."""
RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.edgecolor": palette.MUTED,
    "axes.labelcolor": palette.INK,
    "axes.titlecolor": palette.INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": palette.GRID,
    "grid.linewidth": 0.7,
    "xtick.color": palette.MUTED,
    "ytick.color": palette.MUTED,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": palette.INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.4,
    "figure.dpi": 100,
    "figure.facecolor": palette.PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "slimperf",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Our look inside the block, the caller's own after it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in RC.items():
            mpl.rcParams[name] = value  # type: ignore[index]  # its stubs list every key as a literal
        yield


def panels(count: int, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most two beside each other."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def legend(figure: Figure, axes: Iterable[Axes], *, columns: int = 4) -> None:
    """One legend above all panels, each label once; none where there is nothing to tell apart."""
    entries: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        # Long names need wider columns, else the legend would be cut off at the border.
        longest = max(map(len, entries))
        room = max(1, min(columns, int(figure.get_figwidth() * 13 / (longest + 6))))
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * -(-len(entries) // room))  # the panels keep their size
        figure.legend(entries.values(), entries, loc="outside upper left", ncols=room, borderaxespad=0.2)


def note(figure: Figure, words: str) -> None:
    """A line in small type under the axes that says what marks and intervals are."""
    figure.supxlabel(words, x=0.012, ha="left", fontsize=7.5, color=palette.MUTED)


def svg(figure: Figure) -> str:
    """The figure as SVG text, without date, on a transparent ground."""
    with house_style():
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def png(figure: Figure, *, dpi: int = 200) -> bytes:
    """The figure as PNG on white paper."""
    with house_style():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, facecolor=palette.PAPER, metadata={"Software": None})
    return file.getvalue()


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Writes `<path>.png` and `<path>.svg`; the same figure gives the same bytes."""
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    files[0].write_bytes(png(figure))
    files[1].write_text(svg(figure), encoding="utf-8")
    return files
