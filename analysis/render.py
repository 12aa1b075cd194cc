"""Tables as people read them: aligned text, Markdown, LaTeX (booktabs), HTML, and CSV with every digit.

A table is a DataFrame whose column names carry units. `x`, `x_low` and `x_high` become one cell, "12.3 [11.9, 12.8]";
bytes and seconds get one readable unit per column. CSV keeps the raw columns.
"""

from __future__ import annotations

import html as escaping
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

HEADINGS = {
    "reached_seconds": "time to target",
    "reached_step": "steps to target",
    "val_loss": "validation loss (nats/token)",
    "val_ppl": "validation perplexity",
    "legacy_ppl": "perplexity, N/(N+1) convention",
    "published": "published",
    "bytes_state": "optimizer state",
    "bytes_peak": "peak memory",
    "bytes_weights": "weights",
    "bytes_gradients": "gradients",
    "bytes_activations": "activations",
    "relative_difference": "difference",
    "n": "seeds",
    "cap": "memory cap",
    "p_first": "share of draws in which first",
    "tie_group": "tie group",
    "spent_seconds": "on-clock time spent",
    "spent_steps": "steps spent",
    "baseline_steps": "baseline's steps",
    "speedup": "speed-up",
    "speedup_over": "speed-up over (workloads)",
    "time_speedup": "speed-up in time",
    "needed": "studies needed",
}
COUNTS = {"steps", "baseline_steps", "needed"}
"""Whole numbers that may be missing."""
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
INTERVAL = re.compile(r" (\[.*\])$")
MUTED = r' <span class="i">\1</span>'
UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Line breaks and control characters, which would break a row or command a terminal."""
MARKDOWN = re.compile(r"[\\|`*~$]|<(?=[a-zA-Z/!?])|&(?=[a-zA-Z#])|\](?=[(\[])|(?<![^\W_])_+|_+(?![^\W_])")
"""What GitHub reads as markup in a cell; a number's interval or an underscore within a word it does not."""
TEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)
TIMES = (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Cells as text, ready for any of the formats."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def layout(table: pd.DataFrame) -> Layout:
    """Headings with units, and cells with intervals folded in, each on one line."""
    ends = {f"{name}{end}" for name in table.columns for end in ("_low", "_high")}
    names = [name for name in table.columns if name not in ends]
    headings, columns, numeric = [], [], []
    for name in names:
        heading, write = _writer(name, table[name])
        low, high = table.get(f"{name}_low"), table.get(f"{name}_high")
        cells = [write(value) for value in table[name]]
        if low is not None and high is not None:
            cells = [_interval(cell, a, b, write) for cell, a, b in zip(cells, low, high, strict=True)]
        headings.append(UNPRINTED.sub(" ", heading))
        columns.append([UNPRINTED.sub(" ", cell) for cell in cells])
        numeric.append(pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name]))
    return Layout(headings=tuple(headings), rows=tuple(zip(*columns, strict=True)), numeric=tuple(numeric))


def text(table: pd.DataFrame) -> str:
    """Aligned columns for a terminal."""
    cells = layout(table)
    widths = [max(map(len, column)) for column in zip(cells.headings, *cells.rows, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([_line(cells.headings, widths, cells), rule, *(_line(row, widths, cells) for row in cells.rows)]) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table, aligned in the source too."""
    cells = layout(table)
    head = tuple(map(_md, cells.headings))
    rows = [head, *(tuple(c if right else _md(c) for c, right in zip(row, cells.numeric, strict=True)) for row in cells.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * (w - 1) + (":" if right else "-") for w, right in zip(widths, cells.numeric, strict=True)]
    body = [_line(row, widths, cells, sep=" | ", pad=True) for row in rows]
    return "\n".join(f"| {line} |" for line in [body[0], " | ".join(rule), *body[1:]]) + "\n"


def latex(table: pd.DataFrame) -> str:
    r"""A `tabular` in booktabs style; needs \usepackage{booktabs}."""
    cells = layout(table)
    columns = "".join("r" if right else "l" for right in cells.numeric)
    # A bracket or star at the beginning would be read as an argument of the line before.
    body = ["{}" * row[0].startswith(("[", "*")) + " & ".join(map(_tex, row)) + r" \\" for row in cells.rows]
    head = " & ".join(map(_tex, cells.headings)) + r" \\"
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def html(table: pd.DataFrame, *, marks: Mapping[str, str] | None = None) -> str:
    """A `table` element; numbers carry class `n`, their intervals class `i`.

    Args:
        marks: HTML to put before a submission's name, by name.
    """
    cells = layout(table)
    printed = {UNPRINTED.sub(" ", name): mark for name, mark in (marks or {}).items()}
    marked = [printed if heading == "submission" else {} for heading in cells.headings]
    head = "".join(f"<th{_class(right)}>{escaping.escape(name)}</th>" for name, right in zip(cells.headings, cells.numeric, strict=True))

    def cell(value: str, right: bool, names: Mapping[str, str]) -> str:
        inner = INTERVAL.sub(MUTED, escaping.escape(value)) if right else escaping.escape(value)
        return f"<td{_class(right)}>{names.get(value, '')}{inner}</td>"

    rows = ["".join(map(cell, row, cells.numeric, marked)) for row in cells.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def csv(table: pd.DataFrame) -> str:
    """Every column with every digit; missing values are empty.

    Text stays as it is, for programs that join tables by name: a name such as `=1+2` is not guarded against spreadsheets that would
    take it for a formula.
    """
    return table.to_csv(index=False, lineterminator="\n")


def number(value: float, digits: int = 4) -> str:
    """At least `digits` significant digits, no exponent for everyday sizes, thousands grouped."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 12:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def size(value: float) -> str:
    """A number of bytes in its own best unit."""
    unit, factor = binary_unit(value)
    return f"{number(value / factor, 3)} {unit}"


def duration(value: float) -> str:
    """A number of seconds in its own best unit."""
    unit, factor = _time_unit(value)
    return f"{number(value / factor, 3)} {unit}"


def _writer(name: str, column: pd.Series) -> tuple[str, Callable[[Any], str]]:
    """Heading and cell format of a column, chosen from its name and values."""
    heading = HEADINGS.get(name, name if " " in name else name.removeprefix("hp.").removeprefix("bytes_").replace("_", " "))
    if pd.api.types.is_bool_dtype(column):
        return heading, lambda value: "yes" if value else "no"
    if not pd.api.types.is_numeric_dtype(column):
        return heading, lambda value: "-" if value is None or value != value else str(value).replace("out_of_memory", "out of memory")
    sizes = column.astype(float).abs()
    largest = float(sizes[sizes != math.inf].max())
    if "bytes" in name:
        unit_name, unit_bytes = binary_unit(largest)
        return f"{heading} ({unit_name})", lambda value: number(value / unit_bytes, 4)
    if name.endswith("seconds") or name.startswith("seconds_"):
        unit, factor = _time_unit(largest)
        return f"{heading.removeprefix('seconds').removesuffix('seconds').strip() or 'time'} ({unit})", lambda value: _reach(value / factor)
    if name in COUNTS:
        return heading, lambda value: f"{value:,.0f}" if math.isfinite(value) else number(value)
    if name.endswith("step"):
        return heading, lambda value: _reach(round(value) if math.isfinite(value) else value)
    if name == "relative_difference":
        return heading, lambda value: "-" if math.isnan(value) else f"{100 * value:+.1f} %"
    if pd.api.types.is_integer_dtype(column):
        return heading, lambda value: "-" if pd.isna(value) else f"{value:,}"
    return heading, lambda value: f"{value:,.0f}" if value == round(value, 0) and abs(value) >= 1000 else number(value)


def _reach(value: float) -> str:
    """A time to target; infinity is a miss."""
    if isinstance(value, int):
        return f"{value:,}"
    return "missed" if value == math.inf else number(value)


def _interval(cell: str, low: float, high: float, write: Callable[[Any], str]) -> str:
    return cell if math.isnan(low) or math.isnan(high) else f"{cell} [{write(low)}, {write(high)}]"


def binary_unit(largest: float) -> tuple[str, int]:
    """Name and bytes of the unit in which a column or axis up to `largest` bytes reads best."""
    power = _binary_power(largest)
    return BINARY[power], 1024**power


def _binary_power(value: float) -> int:
    if not value or math.isnan(value):
        return 0
    return max(0, min(len(BINARY) - 1, int(math.log(abs(value), 1024))))


def _time_unit(value: float) -> tuple[str, float]:
    # A column whose largest value is 300 s still reads best in seconds; only longer ones change unit.
    return TIMES[0] if value < 0.1 else TIMES[1] if not value >= 600 else TIMES[2] if value < 36_000 else TIMES[3]


def _line(row: tuple[str, ...], widths: list[int], cells: Layout, *, sep: str = "  ", pad: bool = False) -> str:
    parts = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, cells.numeric, strict=True))
    line = sep.join(parts)
    return line if pad else line.rstrip()


def _class(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _md(cell: str) -> str:
    return MARKDOWN.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), cell)


def _tex(cell: str) -> str:
    return cell.translate(TEX)
