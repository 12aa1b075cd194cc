"""Best values against the search space that was declared: was there room beyond them?

The space is what the record keeps in `settings.space`: `{axes: {name: axis}}` or the axes alone, an axis being
`{log: [low, high]}`, `{linear: ...}`, `{integer: ...}`, `{log_integer: ...}`, `{min, max, scale}` or `{values: [...]}`.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import pandas as pd

EDGE = 0.05
"""Part of an axis at either end that counts as its edge."""
COLUMNS = ["workload", "submission", "hyperparameter", "value", "low", "high", "edge"]


def edges(best: pd.DataFrame) -> pd.DataFrame:
    """One row per best value in the outer 5 % of its axis, or at an end of a list of three or more numbers.

    Args:
        best: trials, one or more per submission, that are the best of their search (such as `tables.best`).

    Returns:
        workload, submission, hyperparameter, value, low, high, edge (`low` or `high`); empty if no space was recorded.
    """
    rows: list[tuple[Any, ...]] = []
    if "settings.space" in best.columns:
        for _, trial in best[best["settings.space"].map(lambda space: isinstance(space, dict))].iterrows():
            space = trial["settings.space"]
            for name, axis in space.get("axes", space).items():
                value = trial.get(f"hp.{name}")
                if isinstance(axis, dict) and _is_number(value) and (found := _edge(float(value), axis)):
                    rows.append((trial["workload"], trial["submission"], name, float(value), *found))
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(ignore_index=True)


def _edge(value: float, axis: dict[str, Any]) -> tuple[float, float, str] | None:
    """(low, high, which end), or None if there is room on both sides."""
    if "values" in axis:
        choices = [float(choice) for choice in axis["values"] if _is_number(choice)]
        if len(choices) < 3 or min(choices) < value < max(choices):
            return None
        return min(choices), max(choices), "low" if value <= min(choices) else "high"
    kind, (low, high) = _range(axis)
    if not low < high:
        return None
    logarithmic = "log" in kind and low > 0
    place = math.log(value / low) / math.log(high / low) if logarithmic and value > 0 else (value - low) / (high - low)
    if EDGE < place < 1 - EDGE:
        return None
    return low, high, "low" if place <= EDGE else "high"


def _range(axis: dict[str, Any]) -> tuple[str, tuple[float, float]]:
    if "min" in axis and "max" in axis:
        return str(axis.get("scale", "linear")), (float(axis["min"]), float(axis["max"]))
    for kind in ("log", "linear", "integer", "log_integer"):
        if kind in axis:
            low, high = axis[kind]
            return kind, (float(low), float(high))
    return "linear", (0.0, 0.0)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
