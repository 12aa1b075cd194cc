"""What a planned trial varies, in words: the hyperparameters in which it differs from its submission's plain form on that workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

Values = Mapping[str, Any]

NAMES: dict[frozenset[tuple[str, Any]], str] = {
    frozenset({("factor", "matrix")}): "fira, one factor per matrix",
    frozenset({("residual", "raw")}): "without scaling (GaLore-add)",
    frozenset({("residual", "none")}): "without the residual",
    frozenset({("adam_term", False)}): "only scaling",
    frozenset({("adam_term", False), ("factor", "matrix")}): "only scaling, one factor per matrix",
    frozenset({("alpha_in_residual", False)}): "fira, no alpha in the residual",
    frozenset({("limiter_after_bias", True)}): "fira, limiter after bias correction",
    frozenset({("limiter", "none")}): "no limiter",
    frozenset({("limiter", "none"), ("clip", 1.0)}): "no limiter, global gradient clipped at 1",
}
"""Names of the paper's ablations, by what differs from plain Fira."""
PLAIN = {"adam": "adam", "galore": "galore", "adam_two_lr": "adam, two learning rates"}


def differences(values: Values, base: Values) -> dict[str, Any]:
    """The hyperparameters that are not as in `base`."""
    return {name: value for name, value in values.items() if value != base.get(name)}


def name(submission: str, changed: Values) -> str:
    """A short name: that of the paper's ablation if there is one, else what was changed."""
    if not changed:
        return PLAIN.get(submission, submission)
    known = NAMES.get(frozenset((key, _hashable(value)) for key, value in changed.items()))
    if known is not None and submission == "fira":
        return known
    if submission == "fira" and changed.get("adam_term") is False:
        return ", ".join(["only scaling", *_told({key: value for key, value in changed.items() if key != "adam_term"})])
    return ", ".join([PLAIN.get(submission, submission), *_told(changed)])


def described(plan: pd.DataFrame, base: Mapping[str, Values], *, axes: tuple[str, ...] = ()) -> pd.DataFrame:
    """`plan` with columns `variant` and one for each of `axes`, which the name then leaves out.

    Args:
        plan: one row per trial with `submission` and `hyperparameters` (a mapping).
        base: the plain hyperparameters of each submission.
    """
    rows = []
    for submission, values in zip(plan["submission"], plan["hyperparameters"], strict=True):
        changed = differences(values, base.get(submission, {}))
        rest = {key: value for key, value in changed.items() if key not in axes}
        rows.append({"variant": name(submission, rest), **{axis: values.get(axis) for axis in axes}})
    return pd.concat([plan.reset_index(drop=True), pd.DataFrame(rows)], axis=1)


def _told(changed: Values) -> list[str]:
    return [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in changed.items()]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
