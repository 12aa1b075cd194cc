"""Performance profiles and their integral: the AlgoPerf score, on arrays of times (..., submissions, workloads).

r[s,w] = t[s,w] / min over s of t[s,w]; rho_s(tau) is the share of workloads with r <= tau; the score of s is the mean of
rho_s over tau in [1, r_max], which is exactly mean over w of max(0, (r_max - r) / (r_max - 1)). See Dahl et al. 2023
(arXiv 2306.07179), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Times = NDArray[np.float64]
R_MAX = 4.0


def ratios(times: Times) -> Times:
    """Times over the fastest submission's, per workload; infinite where missed, 1 for the fastest."""
    best = times.min(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio: Times = np.where(times == best, 1.0, times / best)
    return np.where(np.isfinite(times), ratio, np.inf)


def shares(ratio: Times, r_max: float = R_MAX) -> Times:
    """What each workload gives to the score, in [0, 1]; the shape of `ratio`."""
    share: Times = np.clip((r_max - ratio) / (r_max - 1), 0.0, 1.0)
    return share


def integral(ratio: Times, r_max: float = R_MAX) -> Times:
    """The score of each submission, in closed form; (..., submissions)."""
    score: Times = shares(ratio, r_max).mean(axis=-1)
    return score


def trapezoid(ratio: Times, r_max: float = R_MAX, grid: int = 100) -> Times:
    """The score as AlgoPerf's code prints it: the profile on `grid` points, by the trapezoidal rule."""
    taus = np.linspace(1.0, r_max, grid)
    heights = (ratio[..., None] <= taus).mean(axis=-2)
    area: Times = np.trapezoid(heights, taus, axis=-1) / (r_max - 1)
    return area


def qualified(times: Times, variants: Sequence[tuple[int, int]], r_max: float = R_MAX) -> Times:
    """Times after AlgoPerf v0.5's rule for held-out variants; the variants' own columns are kept.

    A time on a base with a variant stays finite only if it is within r_max times the fastest there, the variant was
    solved, and that within r_max times the fastest on the variant among those that solved the base. (What is beyond r_max
    on another workload adds nothing to a score either way, so it stays as it is.)

    Args:
        variants: (column of the variant, column of its base).
    """
    if not variants:
        return times
    times = times.copy()
    for variant, base in variants:
        times[..., variant] = np.where(np.isfinite(times[..., base]), times[..., variant], np.inf)
    touched = sorted({column for pair in variants for column in pair})
    part = times[..., touched]
    times[..., touched] = np.where(part > r_max * part.min(axis=-2, keepdims=True), np.inf, part)
    for variant, base in variants:
        times[..., base] = np.where(np.isfinite(times[..., variant]), times[..., base], np.inf)
    return times


def profile(ratio: pd.DataFrame, r_max: float = R_MAX) -> pd.DataFrame:
    """The steps of each submission's profile: submission, tau, fraction of workloads within tau times the fastest.

    Args:
        ratio: submissions by workloads, as `scores.ratios` gives it.
    """
    values = ratio.to_numpy(dtype=float)
    taus = np.unique(np.concatenate([[1.0, r_max], values[np.isfinite(values) & (values <= r_max)]]))
    heights = (values[:, :, None] <= taus).mean(axis=1)
    return pd.DataFrame(
        {"submission": np.repeat(ratio.index.to_numpy(), len(taus)), "tau": np.tile(taus, len(ratio)), "fraction": heights.ravel()}
    )
