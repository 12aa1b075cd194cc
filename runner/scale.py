"""Values of a study that follow the size of the workload, so that one file serves the whole ladder of models.

rank: {fraction: 0.25}     # of the short side of the smallest matrix that the paper's methods project
gap: {times: 0.5}          # of the value that the submission would have on this workload if nothing were set
"""

from __future__ import annotations

import json
from typing import Any

from workloads.base import Workload

FORMS = ("fraction", "times")
_SIDES: dict[str, int] = {}
"""Short sides that are known, by the workload's specification: building a large model, even without memory, takes a while."""


def resolved(values: dict[str, Any], layers: dict[str, Any], cls: type, workload: Workload) -> dict[str, Any]:
    """`values` with every relative one made absolute.

    Args:
        layers: what takes the place of the defaults of `cls` on this workload.

    Raises:
        ValueError: a relative value of a hyperparameter that is no number.
    """
    return {name: _absolute(name, value, layers, cls, workload) for name, value in values.items()}


def fraction(share: float, workload: Workload, name: str) -> int:
    """This share of the short side of the workload's smallest matrix, at least 1.

    Raises:
        ValueError: not a share in (0, 1].
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"{name} = {{fraction: {share!r}}}: expected a number above 0 and up to 1")
    return max(1, round(share * short_side(workload)))


def rank(value: Any, workload: Workload, name: str) -> Any:
    """A rank that may be given as `{fraction: share}`; anything else as it is."""
    return fraction(value["fraction"], workload, name) if isinstance(value, dict) and set(value) == {"fraction"} else value


def short_side(workload: Workload) -> int:
    """Short side of the smallest of the layers' matrices."""
    from submissions.base import MATRIX_ROLES, named_roles

    key = json.dumps(workload.spec(), sort_keys=True, default=str)
    if key not in _SIDES:
        model = workload.build(0, "meta")
        sides = [min(parameter.shape) for _, role, parameter in named_roles(model) if role in MATRIX_ROLES and parameter.ndim == 2]
        if not sides:
            raise ValueError(f"{workload.name}: a fraction of the matrices' side means nothing here: no matrix has a role of a LLaMA layer")
        _SIDES[key] = min(sides)
    return _SIDES[key]


def _absolute(name: str, value: Any, layers: dict[str, Any], cls: type, workload: Workload) -> Any:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in FORMS:
        return value
    ((form, number),) = value.items()
    if form == "fraction":
        return fraction(number, workload, name)
    base = layers.get(name, getattr(cls(), name, None))
    if isinstance(base, bool) or not isinstance(base, int | float) or isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{name} = {{times: {number!r}}}: expected a number times a number, but the value here is {base!r}")
    return max(1, round(base * number)) if isinstance(base, int) else base * number
