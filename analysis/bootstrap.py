"""How sure we are: bootstrap over studies of times, and what follows from it for scores, ranks and differences.

Studies are drawn with replacement within each submission and workload. Where submissions ran the same seeds on a
workload they get the same draw, so what a seed does to all of them cancels in their ratio. Arrays have the draws first.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVEL = 0.95
BLOCK = 4_000_000
"""Values drawn at once: 32 MB."""


def medians(studies: pd.DataFrame, submissions: list[str], workloads: list[str], *, draws: int, seed: int = 0) -> Array:
    """Resampled median times, (draws, submissions, workloads); infinite where there is no study."""
    rng = np.random.default_rng(seed)
    result = np.full((draws, len(submissions), len(workloads)), np.inf)
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (submissions, workloads))
    table = studies[studies["submission"].isin(rows) & studies["workload"].isin(columns)]
    for workload, part in table.sort_values(["workload", "submission", "label", "study"]).groupby("workload"):
        for names, values in _paired(part):
            result[:, [rows[name] for name in names], columns[str(workload)]] = _resample(values, draws, rng)
    return result


def _paired(part: pd.DataFrame) -> list[tuple[list[str], Array]]:
    """(submissions, their times by study) of those whose studies have the same labels; the others alone."""
    shared: dict[object, tuple[list[str], list[Array]]] = {}
    for submission, cell in part.groupby("submission", sort=True):
        key = (str(submission),) if cell["label"].isna().any() else tuple(cell["label"])
        names, values = shared.setdefault((cell["label"].isna().any(), key), ([], []))
        names.append(str(submission))
        values.append(cell["time"].to_numpy(dtype=float))
    return [(names, np.stack(values)) for names, values in shared.values()]


def _resample(values: Array, draws: int, rng: np.random.Generator) -> Array:
    """Medians (draws, submissions) of `values` (submissions, studies), with one draw of studies for all rows."""
    rows, n = values.shape
    if n == 1:
        return np.broadcast_to(values[:, 0], (draws, rows))
    parts = []
    step = max(1, BLOCK // (rows * n))
    for first in range(0, draws, step):
        chosen = rng.integers(0, n, (min(step, draws - first), n))
        sample = np.partition(values[:, chosen], [(n - 1) // 2, n // 2], axis=-1)
        parts.append(((sample[..., (n - 1) // 2] + sample[..., n // 2]) / 2).T)
    return np.concatenate(parts)


def interval(draws: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Percentile interval over the first axis. Order statistics, because draws may be infinite."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return low, high


def ranks(scores: Array) -> NDArray[np.int64]:
    """Rank of each submission, 1 for the highest score; equal scores share the better rank."""
    rank: NDArray[np.int64] = 1 + (scores[..., None, :] > scores[..., :, None]).sum(axis=-1)
    return rank


def first(scores: Array) -> Array:
    """Share of draws in which each submission has the highest score; ties share theirs."""
    top = scores == scores.max(axis=1, keepdims=True)
    share: Array = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def tie_groups(scores: Array, order: NDArray[np.int64], level: float = LEVEL) -> NDArray[np.int64]:
    """Group of each submission, from 1: walking down `order`, a group holds those not told apart from its best member."""
    groups = np.zeros(len(order), dtype=np.int64)
    leader, group = order[0], 1
    for member in order:
        low, _ = interval(scores[:, leader] - scores[:, member], level)
        if low > 0:
            leader, group = member, group + 1
        groups[member] = group
    return groups
