"""Paper and frame of every figure: size, type, axes, legend, and files that come out the same every time."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, ft2font, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis import palette

WIDTH, HEIGHT = 4.9, 3.3
"""Inches of one panel: nearly a column of a paper, and 9 pt type stays readable on a telephone."""
LEGEND_ROW = 0.18
"""Inches of one row of a legend."""
REACH = 1.0
"""How far intervals may widen a frame, in ranges of the values or usual intervals, whichever are longer."""
FALLBACKS = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans Arabic", "Noto Sans Hebrew",
    "Noto Sans Devanagari", "Noto Sans Thai", "WenQuanYi Zen Hei", "Arial Unicode MS", "Hiragino Sans", "PingFang SC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Emoji", "Symbola",
)  # fmt: skip
"""Fonts asked, where installed, for letters that the first one lacks."""
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
    "text.parse_math": False,  # a name may hold dollar signs, and no label of ours is a formula
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
        mpl.rcParams["font.family"] = fonts()
        yield


@functools.cache
def fonts() -> list[str]:
    """Our font, then those of the fallbacks that this machine has."""
    here = set(font_manager.get_font_names())
    return [*RC["font.family"], *(name for name in FALLBACKS if name in here)]


def undrawable(texts: Iterable[str]) -> str:
    """The letters, each once and in order, for which no font here has a picture: figures show a box in their place."""
    rest = {ord(letter) for text in texts for letter in text if letter.isprintable()}
    for name in fonts():
        if rest:
            rest -= set(ft2font.FT2Font(font_manager.findfont(name)).get_charmap())
    return "".join(map(chr, sorted(rest)))


def panels(count: int, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most two beside each other."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def legend(figure: Figure, entries: Mapping[str, Any], *, columns: int = 4) -> None:
    """One legend above all panels; none where there is nothing to tell apart.

    Args:
        entries: what to show for each label. Asking the axes instead would drop names with a leading underscore.
    """
    if len(entries) > 1:
        # Long names need wider columns, else the legend would be cut off at the border.
        longest = max(map(len, entries))
        room = max(1, min(columns, int(figure.get_figwidth() * 13 / (longest + 6))))
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * -(-len(entries) // room))  # the panels keep their size
        figure.legend(entries.values(), entries, loc="outside upper left", ncols=room, borderaxespad=0.2)


def frame(
    axes: Axes,
    values: pd.Series,
    lows: pd.Series,
    highs: pd.Series,
    *,
    places: ArrayLike,
    axis: str = "x",
    floor: float | None = None,
) -> bool:
    """Limits of an axis that show every value and its interval; one far wider than others ends in an arrow, and the answer is True.

    Args:
        values: at least one finite; others are left out.
        lows: ends of the intervals, NaN where there is none; so are `highs`. `places` says where on the other axis they are.
        floor: where the axis begins, for values that cannot be smaller.
    """
    values = values[np.isfinite(values)]
    least, most = float(values.min()), float(values.max())
    span = max(most - least, float(np.nan_to_num((highs - lows).median()))) or 0.01 * abs(most)
    low = max(min(least, lows.min()), least - REACH * span) if floor is None else floor
    high = min(max(most, highs.max()), most + REACH * span)
    margin = 0.04 * max(high - low, span)
    axes.set(**{f"{axis}lim": (low - (margin if floor is None else 0.0), high + margin)})
    cut = [(low, "<v", lows < low), (high, ">^", highs > high)]
    for end, markers, those in cut:
        across = np.asarray(places, dtype=float)[those.to_numpy(bool)]
        along = np.full(len(across), end)
        pair = (across, along) if axis == "y" else (along, across)
        axes.plot(*pair, markers[axis == "y"], color=palette.INK, markersize=5, zorder=3)
    return any(bool(those.any()) for _, _, those in cut)


class PlainLog(ticker.LogFormatter):
    """Labels where a logarithmic axis has them, as plain numbers: the usual ones are formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def logarithmic(axes: Axes, axis: str) -> None:
    """Makes `x` or `y` logarithmic."""
    axes.set(**{f"{axis}scale": "log"})
    one = axes.xaxis if axis == "x" else axes.yaxis
    one.set_major_formatter(PlainLog())
    one.set_minor_formatter(PlainLog())


def note(figure: Figure, words: str, *, cut: bool = False) -> None:
    """A line in small type under the axes that says what marks and intervals are, and arrows where `frame` cut one off."""
    figure.supxlabel(words + ("; arrow: it goes on" if cut else ""), x=0.012, ha="left", fontsize=7.5, color=palette.MUTED)


def svg(figure: Figure) -> str:
    """The figure as SVG text, without date, on a transparent ground."""
    return _written(figure, format="svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()


def png(figure: Figure, *, dpi: int = 200) -> bytes:
    """The figure as PNG on white paper."""
    return _written(figure, format="png", dpi=dpi, facecolor=palette.PAPER, metadata={"Software": None})


def _written(figure: Figure, **settings: Any) -> bytes:
    file = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        # One warning for each letter of each figure; `undrawable` says it once.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, **settings)
    return file.getvalue()


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Writes `<path>.png` and `<path>.svg`; the same figure gives the same bytes."""
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    files[0].write_bytes(png(figure))
    files[1].write_text(svg(figure), encoding="utf-8")
    return files
