"""How many seeds would tell two submissions apart, and how few do not."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis import bootstrap, profiles, scores, times

POWER = 0.8
"""Chance of seeing a difference that is there."""


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
    where the difference is (z_0.975 + z_0.8) deviations, two-sided 5 % at a power of 80 %. `needed` is NaN where there
    is no repetition, and infinite where the scores are equal although their times vary.
    """
    board = scores.leaderboard(studies, workloads=workloads, variants=variants, r_max=r_max, draws=0)
    names = board["submission"].tolist()
    sampled = scores.resampled(studies, names, workloads=workloads, variants=variants, r_max=r_max, draws=draws)
    n = studies.groupby(times.CELL).size().groupby("submission").min()
    factor = NormalDist().inv_cdf(0.5 + bootstrap.LEVEL / 2) + NormalDist().inv_cdf(POWER)
    rows = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            count = int(min(n[first], n[names[j]]))
            difference = float(board["score"][i] - board["score"][j])
            low, high = bootstrap.interval(sampled[:, i] - sampled[:, j])
            # n draws out of n values vary by (n - 1) / n of the variance that n new ones would have
            deviation = float(np.std(sampled[:, i] - sampled[:, j])) * np.sqrt(count / (count - 1)) if count > 1 else np.nan
            rows.append((first, names[j], difference, float(low), float(high), count, _needed(difference, deviation, count, factor)))
    table = pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "studies", "needed"])
    table = table.astype(dict.fromkeys(["difference", "low", "high", "studies", "needed"], float)).astype({"studies": int})
    single = table["studies"] == 1
    return table.assign(low=table["low"].mask(single), high=table["high"].mask(single), apart=(table["low"] > 0) & ~single)


def line(table: pd.DataFrame) -> list[str]:
    """A sentence for each pair of `seeds` whose neighbours in rank are not told apart."""
    close = table[~table["apart"] & np.isfinite(table["needed"])].drop_duplicates("first")
    return [
        f"to tell {row.first} from {row.second}: about {row.needed:.0f} studies (seeds) per workload, now {row.studies}"
        for row in close.itertuples()
    ]


def _needed(difference: float, deviation: float, count: int, factor: float) -> float:
    if np.isnan(deviation):
        return np.nan
    if difference == 0:
        return np.inf if deviation > 0 else np.nan
    return max(2.0, float(np.ceil(count * (factor * deviation / abs(difference)) ** 2)))
