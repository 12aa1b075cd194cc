"""Verdicts on a paper's claims from our own runs: holds, does not hold, or cannot tell at this n.

A comparison is paired by seed: both trainings saw the same data from the same start. A claim holds if the whole 95 % interval lies on
its side, does not hold if it lies on the other, and with one seed, or an interval across the line, nothing can be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import spread

Measured = tuple[float, float, float]
"""A value and the two ends of its interval, NaN where there is none."""
HOLDS, FAILS, OPEN, ABSENT = "holds", "does not hold", "cannot tell at this n", "not run"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One variant ends at a lower value than another."""

    better: str
    worse: str
    published: str = ""
    """The numbers that the claim rests on; empty for a control of ours, which the paper does not have."""

    def judge(self, runs: pd.DataFrame, value: str) -> dict[str, object]:
        """One row of a table of verdicts.

        Args:
            runs: one row per trial with `variant`, `seed` and a positive `value`.
        """
        low, mean, high, n = paired(runs, self.better, self.worse, value)
        return {
            "claim": f"{self.better} ends lower than {self.worse}",
            "published": self.published or "(control)",
            "ours": "-" if n == 0 else f"{_percent(mean)} lower{_between(low, high)}",
            "seeds": n,
            "verdict": verdict(low, high, 0.0) if n else ABSENT,
        }


def paired(runs: pd.DataFrame, better: str, worse: str, value: str) -> tuple[float, float, float, int]:
    """(low, mean, high, n) of log(worse) - log(better) over the seeds that both have; NaN where there is nothing to say."""
    table = runs[runs["variant"].isin([better, worse])].pivot_table(index="seed", columns="variant", values=value)
    if not {better, worse} <= set(table.columns):
        return math.nan, math.nan, math.nan, 0
    both = table[[better, worse]].dropna()
    difference = np.log(both[worse].to_numpy(float)) - np.log(both[better].to_numpy(float))
    return interval(difference)


def interval(values: np.ndarray) -> tuple[float, float, float, int]:
    """(low, mean, high, n) of a mean; the ends are NaN for fewer than two values."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan, 0
    deviation = np.array([np.std(values, ddof=1) if n > 1 else 0.0])
    half = float(spread.half_width(deviation, np.array([n]))[0])
    mean = float(np.mean(values))
    return mean - half, mean, mean + half, n


def verdict(low: float, high: float, line: float, *, above: bool = True) -> str:
    """What an interval says about a quantity that is claimed to lie above (or below) a line."""
    if math.isnan(low) or math.isnan(high):
        return OPEN
    if low > line:
        return HOLDS if above else FAILS
    if high < line:
        return FAILS if above else HOLDS
    return OPEN


def within(low: float, high: float, bounds: tuple[float, float]) -> str:
    """What an interval says about a quantity that is claimed to lie between two bounds."""
    if math.isnan(low) or math.isnan(high):
        return OPEN
    if low >= bounds[0] and high <= bounds[1]:
        return HOLDS
    return FAILS if high < bounds[0] or low > bounds[1] else OPEN


def told(claim: str, published: str, measured: Measured, seeds: int, judged: str, *, digits: int = 4) -> dict[str, object]:
    """One row of a table of verdicts about a single quantity."""
    value, low, high = measured
    if math.isnan(value):
        return {"claim": claim, "published": published, "ours": "-", "seeds": seeds, "verdict": ABSENT}
    ours = f"{value:.{digits}g}"
    if not math.isnan(low):
        ours += f" [{low:.{digits}g}, {high:.{digits}g}]"
    return {"claim": claim, "published": published, "ours": ours, "seeds": seeds, "verdict": judged}


def _percent(value: float) -> str:
    return f"{100 * (1 - math.exp(-value)):.2f} %"


def _between(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{_percent(low)}, {_percent(high)}]"
