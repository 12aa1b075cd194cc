"""What a trial measures beside its training: never a part of it, and no bit of the training depends on it.

    probes_every: 10
    observe: {indices: 100, shadow: {ranks: [{fraction: 0.25}], gap: 200, bases: [svd, coordinates]}}

`indices` is how many long-axis indices of each matrix are kept of a probe that has one value for each (null: all);
`shadow` follows the moments of projected gradients beside a full-rank run (see shadow.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from runner import fields, scale
from workloads.base import Workload

GAP = 200
"""Updates from one shadow subspace to the next in the paper's study; a fifth of a training that is too short for it."""


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Which projections are followed."""

    ranks: tuple[int, ...]
    gap: int = GAP
    bases: tuple[Literal["svd", "coordinates"], ...] = ("svd", "coordinates")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is recorded on the grid of `probes_every`."""

    indices: int | None = 100
    shadow: Shadow | None = None


def parse(given: dict[str, Any], workload: Workload | None = None) -> Observation:
    """The observation that a study or a trial asks for; relative ranks need the workload.

    Raises:
        ValueError: an unknown key, or a value that cannot be.
    """
    found = _checked(Observation, {key: value for key, value in given.items() if key != "shadow"}, "observe", also={"shadow"})
    if found.get("indices", 1) is not None and found.get("indices", 1) < 1:
        raise ValueError(f"observe: indices = {found['indices']}: expected a whole number of at least 1, or null for all")
    return Observation(**found, shadow=_shadow(given["shadow"], workload) if given.get("shadow") is not None else None)


def plain(given: dict[str, Any], workload: Workload) -> dict[str, Any]:
    """The same with everything resolved, as a trial keeps it; empty if nothing was asked for."""
    found: dict[str, Any] = fields.plain(asdict(parse(given, workload))) if given else {}
    return found


def _shadow(given: Any, workload: Workload | None) -> Shadow:
    if not isinstance(given, dict):
        raise ValueError(f"observe: shadow = {given!r}: expected a mapping, such as {{ranks: [{{fraction: 0.25}}]}}")
    values = dict(given)
    if workload is not None and isinstance(values.get("ranks"), list):
        values["ranks"] = [scale.rank(rank, workload, "observe: shadow: ranks") for rank in values["ranks"]]
        values.setdefault("gap", max(1, min(GAP, workload.budget.steps // 5)))
    shadow = Shadow(**_checked(Shadow, values, "observe: shadow", required={"ranks"}))
    if not shadow.ranks or min(shadow.ranks) < 1 or shadow.gap < 1 or not shadow.bases:
        raise ValueError(f"observe: shadow = {given!r}: expected ranks and a gap of at least 1, and at least one basis")
    return shadow


def _checked(cls: type, given: dict[str, Any], what: str, also: set[str] | None = None, required: set[str] | None = None) -> dict[str, Any]:
    known = fields.types_of(cls)
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no setting {name!r}{fields.nearest(name, known)}")
    for name in (required or set()) - given.keys():
        raise ValueError(f"{what}: expected {name}")
    return {name: fields.coerce(known[name], value, f"{what}: {name}") for name, value in given.items() if name not in (also or set())}
