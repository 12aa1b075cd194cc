"""Search spaces: what a submission's hyperparameters may be, and points drawn from them.

    search:
      lr: {log: [1.0e-4, 1.0e-1]}
      rank: {values: [4, 16, 64]}
      limiter: {values: [none, norm_growth]}
      gap: {integer: [50, 500]}
      gamma: {linear: [1.0, 1.1], when: {limiter: norm_growth}}

Points come from a scrambled Halton sequence, so any stretch of it covers the space evenly (AlgoPerf draws its tuning
trials in this way, too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from runner import fields

Kind = Literal["linear", "log", "integer", "log_integer", "values"]
EDGE = 0.05
"""A value in the outer 5 % of its axis lies at the edge: the best may be outside."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One hyperparameter's range: [low, high], or a list of choices."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    when: dict[str, Any] = field(default_factory=dict)
    """Values that other hyperparameters must have for this one to count; else it keeps its default."""

    def at(self, u: float) -> Any:
        """The value at the fraction u in [0, 1) of the axis."""
        if self.kind == "values":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        whole, log = "integer" in self.kind, "log" in self.kind
        low, high = self.low, self.high + whole
        value = low * (high / low) ** u if log else low + (high - low) * u
        if whole:
            return min(math.floor(value), int(self.high))
        return min(max(float(f"{value:.4g}"), self.low), self.high)  # four digits: a value that can be read and typed

    def fraction(self, value: Any) -> float:
        """Where `value` lies on the axis, 0 at its low end and 1 at its high one."""
        if self.kind == "values":
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        if "log" in self.kind:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))


Space = tuple[Axis, ...]


def parse(space: dict[str, Any]) -> Space:
    """The space that a study declares, conditions after what they depend on.

    Raises:
        ValueError: an axis is malformed, or conditions go round in a circle.
    """
    if not isinstance(space, dict) or not space:
        raise ValueError(f"search = {space!r}: expected hyperparameters with ranges, such as `lr: {{log: [1.0e-4, 1.0e-1]}}`")
    return _ordered({name: _axis(name, given) for name, given in space.items()})


def from_text(assignments: list[str]) -> dict[str, Any]:
    """The space typed on a command line: `lr=log:1e-4:1e-1`, `rank=values:4,16,64`, `gap=integer:50:500`.

    Raises:
        ValueError: one of them has another form.
    """
    from runner import documents

    space: dict[str, Any] = {}
    for text in assignments:
        name, equals, rest = text.partition("=")
        kind, colon, ends = rest.partition(":")
        if not (equals and colon):
            raise ValueError(
                f"--space {text}: expected NAME=KIND:LOW:HIGH or NAME=values:A,B,C; KIND is one of {', '.join(get_args(Kind))}"
            )
        space[name] = {kind: [documents.value(item) for item in ends.split("," if kind == "values" else ":")]}
    return space


def draw(space: Space, count: int, *, seed: int) -> list[dict[str, Any]]:
    """`count` points of a scrambled Halton sequence; a longer draw begins with the same points."""
    from scipy.stats import qmc

    fractions = qmc.Halton(len(space), scramble=True, seed=seed).random(count)
    return [point(space, list(row)) for row in fractions]


def point(space: Space, fractions: list[float]) -> dict[str, Any]:
    """The hyperparameters at these fractions of the axes; those whose condition fails are absent."""
    chosen: dict[str, Any] = {}
    for axis, u in zip(space, fractions, strict=True):
        if all(chosen.get(name) == value for name, value in axis.when.items()):
            chosen[axis.name] = axis.at(u)
    return chosen


def at_edge(space: Space, hyperparameters: dict[str, Any]) -> list[str]:
    """Axes on which a point lies in the outer 5 %; unordered choices (text, booleans) have no edge."""
    found = []
    for axis in space:
        numeric = axis.kind != "values" or all(isinstance(c, int | float) and not isinstance(c, bool) for c in axis.choices)
        ranged = len(axis.choices) > 1 or axis.kind != "values"
        if numeric and ranged and axis.name in hyperparameters:
            u = axis.fraction(hyperparameters[axis.name])
            if u <= EDGE or u >= 1 - EDGE:
                found.append(axis.name)
    return found


def _axis(name: str, given: Any) -> Axis:
    kinds = get_args(Kind)
    form = f"expected one of {', '.join(kinds)} with its range, such as {{log: [1.0e-4, 1.0e-1]}}"
    if not isinstance(given, dict):
        raise ValueError(f"search: {name} = {given!r}: {form}")
    chosen = [key for key in given if key != "when"]
    if len(chosen) != 1 or chosen[0] not in kinds:
        raise ValueError(f"search: {name} = {dict(given)!r}: {form}{fields.nearest(chosen[0], kinds) if len(chosen) == 1 else ''}")
    kind, ends, when = chosen[0], given[chosen[0]], given.get("when", {})
    if not isinstance(when, dict):
        raise ValueError(f"search: {name}: when = {when!r}: expected a mapping, such as {{limiter: norm_growth}}")
    if kind == "values":
        if not isinstance(ends, list) or not ends:
            raise ValueError(f"search: {name}: values = {ends!r}: expected a list of choices")
        return Axis(name=name, kind=kind, choices=tuple(fields.plain(ends)), when=dict(when))
    low, high = _ends(name, kind, ends)
    return Axis(name=name, kind=kind, low=low, high=high, when=dict(when))


def _ends(name: str, kind: str, ends: Any) -> tuple[float, float]:
    number = int if "integer" in kind else float
    low, high = fields.coerce(tuple[number, number], ends, f"search: {name}: {kind}")  # type: ignore[valid-type]  # int or float
    if not low < high or ("log" in kind and low <= 0):
        raise ValueError(f"search: {name}: {kind} = {ends!r}: expected low < high{', both positive' if 'log' in kind else ''}")
    return low, high


def _ordered(axes: dict[str, Axis]) -> Space:
    placed: dict[str, Axis] = {}
    while len(placed) < len(axes):
        ready = [a for a in axes.values() if a.name not in placed and all(n in placed for n in a.when)]
        if not ready:
            left = next(axis for axis in axes.values() if axis.name not in placed)
            raise ValueError(
                f"search: {left.name}: when = {left.when!r}: expected conditions on other axes of this space, without a circle"
            )
        placed.update((axis.name, axis) for axis in ready)
    return tuple(placed.values())
