"""How many seeds would tell two submissions apart, and how few do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis import bootstrap, profiles, scores

Array = NDArray[np.float64]

POWER = 0.8
"""Chance of seeing a difference that is there."""
MOST = 2.0**30
"""Studies beyond which two scores count as equal."""


def seeds(
    studies: pd.DataFrame,
    *,
    workloads: Sequence[str] | None = None,
    variants: scores.Variants | None = None,
    r_max: float = profiles.R_MAX,
    draws: int = 1000,
) -> pd.DataFrame:
    """Studies per workload that would tell each pair apart: first, second, difference, low, high, apart, studies, needed.

    The standard deviation of the difference between two scores, over bootstrap draws, falls as 1 / sqrt(n); n is needed
    where the difference is (t_0.975 + t_0.8) deviations, two-sided 5 % at a power of 80 %, with n - 1 degrees of freedom.
    `needed` is NaN where there is no repetition, and infinite where the scores are equal although their times vary.
    """
    names, terms = scores.terms(studies, workloads=workloads, variants=variants, r_max=r_max, draws=draws)
    score = terms.point.mean(axis=1)
    ran = np.where(terms.counts > 0, terms.counts, np.iinfo(np.int64).max).min(axis=1)
    order = np.lexsort((np.array(names), -score))
    rows = []
    for place, i in enumerate(order):
        rest = order[place + 1 :].tolist()
        first, second = terms.only([i]), terms.only(rest)
        low, high = (end.clip(-1, 1) for end in bootstrap.differences(first, second))
        deviation = (first.draws - second.draws).mean(axis=-1).std(axis=0)
        rows += [(names[i], names[j], score[i] - score[j], low[k], high[k], min(ran[i], ran[j]), deviation[k]) for k, j in enumerate(rest)]
    table = pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "studies", "deviation"])
    table = table.astype(dict.fromkeys(["difference", "low", "high", "deviation"], float)).astype({"studies": int})
    single = table["studies"] == 1
    table = table.assign(low=table["low"].mask(single), high=table["high"].mask(single), apart=(table["low"] > 0) & ~single)
    needed = _needed(table["difference"].to_numpy(), table["deviation"].to_numpy(), table["studies"].to_numpy())
    return table.drop(columns="deviation").assign(needed=needed)


def line(table: pd.DataFrame) -> list[str]:
    """A sentence for each pair of `seeds` whose neighbours in rank are not told apart."""
    close = table[~table["apart"] & np.isfinite(table["needed"])].drop_duplicates("first")
    return [
        f"to tell {row.first} from {row.second}: about {row.needed:.0f} studies (seeds) per workload, now {row.studies}"
        for row in close.itertuples()
    ]


def _needed(difference: Array, deviation: Array, studies: NDArray[np.int64]) -> Array:
    """The fewest studies n with n >= (t_0.975 + t_0.8)^2 (s / difference)^2, t at n - 1 degrees of freedom, by bisection.

    Args:
        deviation: of a difference over bootstrap draws of so many `studies`: s^2 (n - 1) / n^2.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(studies > 1, studies**2 / (studies - 1) * (deviation / difference) ** 2, np.nan)
    low, high = np.ones_like(ratio), np.full_like(ratio, MOST)  # too few, enough
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        factor = stats.t.ppf(0.5 + bootstrap.LEVEL / 2, middle - 1) + stats.t.ppf(POWER, middle - 1)
        enough = middle >= factor**2 * ratio  # never for one study, whose factor is not a number
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(np.isnan(ratio), np.nan, np.where(high < MOST, high, np.inf))
