"""How sure we are: bootstrap over studies of times, and what follows from it for scores, ranks and differences.

Studies are drawn with replacement within each submission and workload. Where submissions ran the same seeds on a
workload they get the same draw, so what a seed does to all of them cancels in their ratio. Arrays have the draws first.

Percentiles of draws from a few values are far too narrow: they cannot leave the values' range, and would tell two equal
submissions with two studies each apart half of the time. Here they are widened as Student's t widens a normal interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
LEVEL = 0.95
BLOCK = 4_000_000
"""Values drawn at once: 32 MB."""


class Terms(NamedTuple):
    """What the workloads give to statistics that are means over them, one statistic per submission."""

    point: Array
    """(submissions, workloads)."""
    draws: Array
    """(draws, submissions, workloads)."""
    counts: NDArray[np.int64]
    """Studies that a term rests on, (submissions, workloads)."""
    group: NDArray[np.int64]
    """As `groups` numbers them, (submissions, workloads)."""

    def only(self, rows: list[int]) -> Terms:
        """Those of some submissions."""
        return Terms(self.point[rows], self.draws[:, rows], self.counts[rows], self.group[rows])


def medians(studies: pd.DataFrame, submissions: list[str], workloads: list[str], *, draws: int, seed: int = 0) -> Array:
    """Resampled median times, (draws, submissions, workloads); infinite where there is no study."""
    rng = np.random.default_rng(seed)
    result = np.full((draws, len(submissions), len(workloads)), np.inf)
    for rows, column, values in _groups(studies, submissions, workloads):
        result[:, rows, column] = _resample(values, draws, rng)
    return result


def groups(studies: pd.DataFrame, submissions: list[str], workloads: list[str]) -> NDArray[np.int64]:
    """Numbers (submissions, workloads) that are equal where the studies are drawn in pairs; -1 where there is none."""
    result = np.full((len(submissions), len(workloads)), -1)
    for number, (rows, column, _) in enumerate(_groups(studies, submissions, workloads)):
        result[rows, column] = number
    return result


def _groups(studies: pd.DataFrame, submissions: list[str], workloads: list[str]) -> Iterator[tuple[list[int], int, Array]]:
    """(submissions, workload, times by study) of those that are drawn together."""
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (submissions, workloads))
    table = studies[studies["submission"].isin(rows) & studies["workload"].isin(columns)]
    for workload, part in table.sort_values(["workload", "submission", "label", "study"]).groupby("workload"):
        for names, values in _paired(part):
            yield [rows[name] for name in names], columns[str(workload)], values


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
    if n == 1 or not draws:
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


def intervals(terms: Terms) -> tuple[Array, Array]:
    """Interval of each mean over the workloads."""
    return _around(terms.point.mean(axis=-1), terms.draws.mean(axis=-1), widening(_variance(terms.draws), terms.counts))


def differences(first: Terms, second: Terms) -> tuple[Array, Array]:
    """Interval of each difference between two means over the workloads; the axes of `first` are broadcast."""
    with np.errstate(invalid="ignore"):
        draws = first.draws - second.draws
    draws = np.where(np.isnan(draws), 0.0, draws)  # both infinite: no difference seen
    # Paired studies make one term, of which each study has its own difference; studies apart vary on their own.
    paired = first.group == second.group
    variance = [np.where(paired, _variance(draws), _variance(first.draws)), np.where(paired, 0.0, _variance(second.draws))]
    counts = np.broadcast_arrays(np.where(paired, np.minimum(first.counts, second.counts), first.counts), second.counts)
    factor = widening(np.concatenate(variance, axis=-1), np.concatenate(counts, axis=-1))
    with np.errstate(invalid="ignore"):
        means = draws.mean(axis=-1)
    return _around(first.point.mean(axis=-1) - second.point.mean(axis=-1), means, factor)


def widening(variance: Array, counts: NDArray[np.int64]) -> Array:
    """What a percentile interval from few studies is multiplied by; it nears 1 as they become many.

    n draws out of n values vary by (n-1)/n of the variance that n new values would have, and that variance is itself an
    estimate: with degrees of freedom f (Welch and Satterthwaite's, over the terms) the factor is
    t_f / z sqrt(sum v n/(n-1) / sum v). See the expanded percentile interval of Hesterberg 2015 (arXiv 1411.5279).

    Args:
        variance: of the draws of independent terms, (..., terms).
        counts: studies that each term rests on; one study has no variance and adds nothing.
    """
    n = np.maximum(counts, 2)
    fresh = variance * n / (n - 1)
    known = (variance > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(known, fresh.sum(axis=-1) ** 2 / (fresh**2 / (n - 1)).sum(axis=-1), (n - 1).sum(axis=-1))
        inflated = np.where(known, fresh.sum(axis=-1) / variance.sum(axis=-1), 1.0)
    factor: Array = stats.t.ppf(0.5 + LEVEL / 2, freedom) / stats.norm.ppf(0.5 + LEVEL / 2) * np.sqrt(inflated)
    return factor


def _variance(draws: Array) -> Array:
    """Over the finite draws; 0 where there is none."""
    finite = np.isfinite(draws)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, draws, 0.0).sum(axis=0) / count
    variance: Array = (np.where(finite, draws - mean, 0.0) ** 2).sum(axis=0) / count
    return variance


def _around(center: Array, draws: Array, factor: Array) -> tuple[Array, Array]:
    """The percentile interval, moved away from the point estimate by a factor; it holds the point estimate."""
    unknown = np.isnan(draws).any(axis=0)  # infinite both ways at once: a draw that could be anything
    low, high = interval(np.where(unknown, center, draws))
    low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
    return center - factor * np.maximum(center - low, 0), center + factor * np.maximum(high - center, 0)


def better(terms: Terms) -> NDArray[np.bool_]:
    """Whether the submission of each row is told apart from that of each column, and above it; none is that ran a single study."""
    repeated = (terms.counts != 1).all(axis=1)
    rows = [differences(terms.only([row]), terms)[0] > 0 for row in range(len(terms.point))]
    found: NDArray[np.bool_] = np.stack(rows) & repeated[:, None] & repeated
    return found


def ranks(scores: Array) -> NDArray[np.int64]:
    """Rank of each submission, 1 for the highest score; equal scores share the better rank."""
    rank: NDArray[np.int64] = 1 + (scores[..., None, :] > scores[..., :, None]).sum(axis=-1)
    return rank


def first(scores: Array) -> Array:
    """Share of draws in which each submission has the highest score; ties share theirs."""
    top = scores == scores.max(axis=1, keepdims=True)
    share: Array = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def tie_groups(better: NDArray[np.bool_], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group of each submission, from 1: the best of those without one, and all of them that are not told apart from it."""
    groups = np.zeros(len(order), dtype=np.int64)
    for leader in order:
        if not groups[leader]:
            groups[(groups == 0) & ~better[leader]] = groups.max() + 1
    return groups
