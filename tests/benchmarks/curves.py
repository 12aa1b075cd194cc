"""A cost measured at several sizes, and the power of the size that describes it best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import flops
import numpy as np

SUPER_LINEAR = 1.1
TOLERANCE = 0.5
"""How far an exponent may lie above its order: another algorithm is a whole order."""
Timed = Callable[[], float]
"""Does the work once and returns the seconds it took."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A cost to be measured at some sizes; `prepare` makes the work of one size."""

    what: str
    against: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Timed]
    order: float | None = 1.0
    """Exponent that the work has by its arithmetic; None if there is no such expectation."""
    reason: str = ""
    """Why it is super-linear, if it is."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A row of the table."""

    what: str
    against: str
    first: int
    last: int
    exponent: float
    low: float
    high: float
    r2: float
    first_seconds: float
    last_seconds: float
    rounds: int
    order: float | None
    reason: str

    @property
    def fine(self) -> bool:
        return self.order is None or self.exponent <= self.order + TOLERANCE

    def __str__(self) -> str:
        spread = f"({self.low:.2f} to {self.high:.2f} in {self.rounds} rounds), R^2 {self.r2:.3f}"
        cost = f"{self.first_seconds:.3g} to {self.last_seconds:.3g} s"
        note = f"; {self.reason}" if self.reason else ""
        where = f"{self.what} against {self.against}, {self.first:,} to {self.last:,}"
        return f"{'ok  ' if self.fine else 'MISS'} {where}: {self.exponent:.2f} {spread}; {cost}{note}"


def fitted(curve: Curve, rounds: int) -> Fit:
    """Measures a curve, up and down the sizes in turn."""
    work = {size: curve.prepare(size) for size in curve.sizes}
    seconds: dict[int, list[float]] = {size: [] for size in curve.sizes}
    for number in range(rounds + 1):
        for size in curve.sizes if number % 2 else curve.sizes[::-1]:
            spent = work[size]()
            if number:  # the first round makes states and fills caches
                seconds[size].append(spent)
    medians = [statistics.median(seconds[size]) for size in curve.sizes]
    exponent, r2 = power(curve.sizes, medians)
    single = [power(curve.sizes, [seconds[size][number] for size in curve.sizes])[0] for number in range(rounds)]
    return Fit(
        what=curve.what,
        against=curve.against,
        first=curve.sizes[0],
        last=curve.sizes[-1],
        exponent=exponent,
        low=min(single),
        high=max(single),
        r2=r2,
        first_seconds=medians[0],
        last_seconds=medians[-1],
        rounds=rounds,
        order=curve.order,
        reason=curve.reason if exponent > SUPER_LINEAR else "",
    )


def power(sizes: tuple[int, ...], seconds: list[float]) -> tuple[float, float]:
    """(exponent, R^2) of seconds = c size^exponent, by least squares of the logarithms."""
    x, y = np.log(sizes), np.log(seconds)
    slope, offset = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    return float(slope), 1 - float(((y - slope * x - offset) ** 2).sum()) / spread


def now(device: str = "cpu") -> float:
    """The processor's clock, which a busy machine disturbs little; on a GPU the wall's."""
    return time.process_time() if device == "cpu" else flops.now(device)


def repeated(once: Timed) -> float:
    """The median over a fiftieth of a second, or three times."""
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < 0.02:
        spent.append(once())
    return statistics.median(spent)
