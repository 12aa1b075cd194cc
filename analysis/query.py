"""Filters and groups over tables by short expressions, evaluated without Python's `eval`.

An expression may compare columns with values and each other, combine with and, or, not, use `in` with a list, and do
arithmetic. Column names with dots need no quotes: `hp.rank >= 64 and submission in ["fira", "galore"]`; a name that is
no identifier stands in backticks. `== None` asks for what was not recorded. A list is one value where it stands for
one: `hp.betas == [0.9, 0.99]`; `0.9 in hp.betas` asks for one of its items.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pandas as pd

Aggregate = Literal["mean", "median", "min", "max", "std", "sum", "count"]
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.FloorDiv: operator.floordiv,
}  # fmt: skip
DEFAULT = ("study", "workload", "submission", "seed", "status", "reached_seconds", "reached_step", "seconds", "bytes_peak")


def where(table: pd.DataFrame, expressions: Sequence[str]) -> pd.DataFrame:
    """The rows for which every expression holds.

    Raises:
        ValueError: an expression cannot be read, names no column (the nearest is suggested), or compares unlike things.
    """
    for expression in expressions:
        kept = _evaluate(table, expression)
        if not isinstance(kept, pd.Series) or kept.dtype != bool:
            raise ValueError(f"--where {expression!r}: expected a comparison such as 'hp.rank >= 64'")
        table = table[kept.to_numpy()]
    return table.reset_index(drop=True)


def columns(table: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """These columns, in this order; without names a short selection and every hyperparameter that varies."""
    if names:
        return table[[named(table, name) for name in names]]
    varying = [name for name in table.columns if name.startswith("hp.") and table[name].astype("str").nunique() > 1]
    return table[[name for name in (*DEFAULT, *varying) if name in table.columns]]


def grouped(table: pd.DataFrame, by: Sequence[str], names: Sequence[str] | None = None, *, aggregate: Aggregate = "mean") -> pd.DataFrame:
    """One row per group: the group, its number of `rows`, and the aggregate of these (or the default) columns over what was recorded.

    Raises:
        ValueError: a column is unknown or, to be aggregated, is not numeric.
    """
    by = [named(table, name) for name in by]
    wanted = [named(table, name) for name in names] if names else [name for name in ("value", *DEFAULT[5:]) if name in table.columns]
    wanted = [name for name in wanted if name not in by]
    if text := [name for name in wanted if aggregate != "count" and not pd.api.types.is_numeric_dtype(table[name])]:
        raise ValueError(f"--columns {text[0]}: not numeric, so it has no {aggregate}; group by it, or use --aggregate count")
    groups = table.groupby(by, dropna=False, observed=True, sort=True)
    return groups.size().rename("rows").to_frame().join(groups[wanted].agg(aggregate)).reset_index()


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """For reading: hyperparameters and settings that are whole numbers as such, though where some are missing the column is of floats."""
    asked = table.columns[table.columns.str.startswith(("hp.", "settings."))]
    kinds = {name: "Int64" for name in asked if table[name].dtype == float and _whole(table[name].dropna())}
    return table.astype(kinds)


def _whole(values: pd.Series) -> bool:
    """Whether they are whole numbers that a float holds exactly."""
    return bool(((values % 1 == 0) & (values.abs() < 2.0**53)).all())


def with_points(trials: pd.DataFrame, points: pd.DataFrame, name: str) -> pd.DataFrame:
    """The points called `name` with the columns of their trials; `seconds` is that of the point, `trial_seconds` the trial's.

    Raises:
        ValueError: no point has that name.
    """
    known = [str(known) for known in points["name"].cat.categories]
    if name not in known:
        raise ValueError(f"--points {name}: no such point{_nearest(name, known)}; recorded are {', '.join(sorted(known))}")
    chosen = points[points["name"] == name].astype({"trial": "str"}).drop(columns="name")
    return chosen.merge(trials.rename(columns={"seconds": "trial_seconds"}), on="trial", how="left")


def named(table: pd.DataFrame, name: str) -> str:
    """The name, if it is one of a column.

    Raises:
        ValueError: it is not; the nearest one is suggested.
    """
    if name in table.columns:
        return name
    raise ValueError(f"no column {name!r}{_nearest(name, list(map(str, table.columns)))}")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [other for other in known if other.endswith(f".{name}")]
    return f"; did you mean {close[0]!r}?" if close else ""


def _evaluate(table: pd.DataFrame, expression: str) -> Any:
    quoted: list[str] = []

    def mark(match: re.Match[str]) -> str:
        quoted.append(match[1])
        return f"_backtick_{len(quoted) - 1}_"

    try:
        tree = ast.parse(re.sub(r"`([^`]+)`", mark, expression), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"--where {expression!r}: cannot be read ({error}); expected for example 'hp.rank >= 64'") from None
    try:
        return _value(table, tree.body, quoted)
    except TypeError as error:
        raise ValueError(f"--where {expression!r}: unlike things are compared ({error})") from None
    except ValueError as error:
        raise ValueError(f"--where {expression!r}: {error}") from None


def _value(table: pd.DataFrame, node: ast.expr, quoted: list[str]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _column(table, node, quoted)
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return tuple(_value(table, item, quoted) for item in items)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_value(table, operand, quoted)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(table, operand, quoted)
        case ast.BoolOp(op=op, values=values):
            parts = [_value(table, value, quoted) for value in values]
            joined = parts[0]
            for part in parts[1:]:
                joined = joined & part if isinstance(op, ast.And) else joined | part
            return joined
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in ARITHMETIC:
            return ARITHMETIC[type(operation)](_value(table, left, quoted), _value(table, right, quoted))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            sides = [_value(table, side, quoted) for side in (left, *rights)]
            parts = [_compare(a, op, b) for a, op, b in zip(sides, ops, sides[1:], strict=False)]
            joined = parts[0]
            for part in parts[1:]:
                joined = joined & part
            return joined
    raise ValueError(f"{ast.unparse(node)!r} is not supported; use comparisons, and, or, not, in, arithmetic")


def _column(table: pd.DataFrame, node: ast.expr, quoted: list[str]) -> pd.Series[Any]:
    name = ast.unparse(node)
    if mark := re.fullmatch(r"_backtick_(\d+)_", name):
        name = quoted[int(mark[1])]
    return table[named(table, name)]


def _compare(left: Any, op: ast.cmpop, right: Any) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        found = _found(left, right)
        return ~found if isinstance(op, ast.NotIn) else found
    if isinstance(left, tuple) and isinstance(right, pd.Series):
        left, right = right, left
    if isinstance(left, pd.Series) and isinstance(right, tuple):
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise ValueError("a list is compared by ==, != and in")
        equal = pd.Series([isinstance(cell, tuple) and cell == right for cell in left], index=left.index, dtype=bool)
        return equal if isinstance(op, ast.Eq) else ~equal
    if right is None and isinstance(left, pd.Series) and isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
        return left.isna() if isinstance(op, ast.Eq | ast.Is) else left.notna()
    if type(op) not in COMPARE:
        raise ValueError("`is` compares with None only")
    if isinstance(left, pd.Series) and left.dtype == object and isinstance(right, int | float) and not isinstance(right, bool):
        left = pd.to_numeric(left, errors="coerce")
    result = COMPARE[type(op)](left, right)
    return result.fillna(False).astype(bool) if isinstance(result, pd.Series) else result


def _found(left: Any, right: Any) -> pd.Series[bool]:
    """Where a cell is one of the values, or a value is one of a cell's items or a part of its text."""
    if isinstance(left, pd.Series) and isinstance(right, tuple):
        return left.isin(list(right))
    lists = isinstance(right, pd.Series) and any(isinstance(cell, tuple) for cell in right)
    if isinstance(left, pd.Series) or not (lists or (isinstance(left, str) and isinstance(right, pd.Series))):
        raise ValueError("expected a column in a list of values, or a value in a column of lists, or a text in a column")
    cells = [left in cell if isinstance(cell, tuple) else isinstance(left, str) and left in str(cell) for cell in right]
    return pd.Series(cells, index=right.index, dtype=bool)
