"""The leaderboard: the AlgoPerf score of each submission with its interval, rank, ties and speed-up.

Tables in and out; `attrs["notes"]` of a leaderboard says in sentences what its numbers rest on and what they lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import bootstrap, naming, notes, profiles, times
from analysis.profiles import R_MAX

Array = NDArray[np.float64]
Variants = Sequence[tuple[str, str]]
"""(held-out variant, its base workload)."""


def leaderboard(
    studies: pd.DataFrame,
    *,
    workloads: Sequence[str] | None = None,
    variants: Variants | None = None,
    r_max: float = R_MAX,
    draws: int = 1000,
    seed: int = 0,
    reference: str | None = None,
    trapezoid: bool = False,
) -> pd.DataFrame:
    """One row per submission, best first: score, low, high (95 %), rank and its range, tie_group, p_first, solved, workloads, studies.

    Args:
        studies: of `times.studies` or `algoperf.studies`.
        workloads: those that count; without them all that are no variants. One that nobody ran counts as unsolved.
        variants: held-out variants; without them those that `base_workload` names.
        draws: of the bootstrap; 0 leaves intervals out.
        reference: a submission; adds the geometric-mean speed-up over it.
        trapezoid: adds the score as AlgoPerf's code integrates it.

    Raises:
        ValueError: nothing to score, r_max is not above 1, or there is no such reference or workload.
    """
    field = _field(studies, workloads, variants, r_max)
    if reference is not None and reference not in field.submissions:
        raise ValueError(f"reference {reference!r}: expected one of the submissions {', '.join(field.submissions)}")
    sampled = _times(studies, field, draws, seed)
    point, counts = sampled.point, sampled.counts
    ratio = profiles.ratios(point)
    table = pd.DataFrame({"submission": field.submissions, "score": profiles.integral(ratio, r_max)})
    repeated = draws > 0 and counts.max() > 1
    if repeated:
        table = _uncertain(table, field.shares(sampled))
    else:
        table = table.assign(low=np.nan, high=np.nan, rank=bootstrap.ranks(table["score"].to_numpy()))
    table = table.assign(solved=np.isfinite(point).sum(axis=1), workloads=len(field.counted), studies=list(map(_range, counts)))
    if reference is not None:
        table = table.join(_speedups(sampled, field.submissions.index(reference), repeated))
    if trapezoid:
        table["trapezoid"] = profiles.trapezoid(ratio, r_max)
    table = table.sort_values(["score", "submission"], ascending=[False, True], ignore_index=True)
    table.attrs["notes"] = [
        *notes.coverage(studies, field.submissions, field.counted, field.held_out),
        *notes.outcome(pd.DataFrame(point, field.submissions, field.counted), reference),
        *notes.certainty(counts, draws),
        f"score: exact integral of the performance profile up to r_max = {r_max:g}",
    ]
    return table


class Ranking(NamedTuple):
    """The leaderboard of trials that may be ranked together, and what it comes from."""

    ruleset: str
    fingerprint: str
    studies: pd.DataFrame
    table: pd.DataFrame


def rankings(trials: pd.DataFrame) -> list[Ranking]:
    """A leaderboard by seconds for every ruleset and machine among trials with a target."""
    found = []
    for ruleset, fingerprint, rows in times.groups(trials.dropna(subset=["target_value"])):
        studies = times.studies(times.runs(rows))
        table = leaderboard(studies)
        table.attrs["notes"] = [*table.attrs["notes"], *times.repeated(rows)]
        found.append(Ranking(ruleset, fingerprint, studies, table))
    return found


def matrix(studies: pd.DataFrame, submissions: Sequence[str], workloads: Sequence[str]) -> pd.DataFrame:
    """Times to target, submissions by workloads; infinite where missed and where there is no trial."""
    cells = times.to_target(studies).pivot(index="submission", columns="workload", values="time")
    return cells.reindex(index=list(submissions), columns=list(workloads)).astype(float).fillna(np.inf)


def ratios(
    studies: pd.DataFrame, *, workloads: Sequence[str] | None = None, variants: Variants | None = None, r_max: float = R_MAX
) -> pd.DataFrame:
    """Time over the fastest time, submissions by workloads, after the held-out variants: what profiles are made of."""
    field = _field(studies, workloads, variants, r_max)
    point = field.qualified(matrix(studies, field.submissions, field.columns).to_numpy())
    return pd.DataFrame(profiles.ratios(point), index=field.submissions, columns=field.counted)


def terms(
    studies: pd.DataFrame,
    *,
    workloads: Sequence[str] | None = None,
    variants: Variants | None = None,
    r_max: float = R_MAX,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[list[str], bootstrap.Terms]:
    """The submissions in order of name, and what the workloads give to their scores, with bootstrap draws."""
    field = _field(studies, workloads, variants, r_max)
    return field.submissions, field.shares(_times(studies, field, draws, seed))


def _times(studies: pd.DataFrame, field: Field, draws: int, seed: int) -> bootstrap.Terms:
    """Median times after the held-out variants, and their draws."""
    point = field.qualified(matrix(studies, field.submissions, field.columns).to_numpy())
    drawn = field.qualified(bootstrap.medians(studies, field.submissions, field.columns, draws=draws, seed=seed))
    return bootstrap.Terms(point, drawn, _counts(studies, field), bootstrap.groups(studies, field.submissions, field.counted))


def variants_of(studies: pd.DataFrame) -> list[tuple[str, str]]:
    """The held-out variants among the workloads, with their bases, as far as these were run."""
    return sorted(naming.variants(studies).items())


@dataclass(frozen=True, kw_only=True)
class Field:
    """Submissions, counted workloads and held-out variants that take part, each in order of name."""

    submissions: list[str]
    counted: list[str]
    held_out: list[tuple[str, str]]
    r_max: float

    @property
    def columns(self) -> list[str]:
        return [*self.counted, *(variant for variant, _ in self.held_out)]

    def qualified(self, times: Array) -> Array:
        """Times on the counted workloads, after the held-out variants among all columns took their toll."""
        pairs = [(self.columns.index(variant), self.columns.index(base)) for variant, base in self.held_out]
        return profiles.qualified(times, pairs, self.r_max)[..., : len(self.counted)]

    def shares(self, times: bootstrap.Terms) -> bootstrap.Terms:
        """What the workloads give to the scores, from times on the counted ones."""
        point, draws = (profiles.shares(profiles.ratios(part), self.r_max) for part in (times.point, times.draws))
        return times._replace(point=point, draws=draws)


def _field(studies: pd.DataFrame, workloads: Sequence[str] | None, variants: Variants | None, r_max: float) -> Field:
    if studies.empty:
        raise ValueError("nothing to score: there is no trial of a workload with a target; run some, or name another folder")
    if not r_max > 1:
        raise ValueError(f"r_max = {r_max}: expected a ratio above 1, such as 4, beyond which a time counts as a miss")
    present = set(studies["workload"].astype("str"))
    named = [(variant, base) for variant, base in (variants_of(studies) if variants is None else sorted(variants)) if variant in present]
    # A variant whose base nobody ran is a workload like any other.
    apart = {variant for variant, base in named if base in present}
    counted = sorted(set(workloads) if workloads is not None else present - apart)
    held_out = [(variant, base) for variant, base in named if base in counted and variant not in counted]
    return Field(submissions=sorted(set(studies["submission"].astype("str"))), counted=counted, held_out=held_out, r_max=r_max)


def _counts(studies: pd.DataFrame, field: Field) -> NDArray[np.int64]:
    """Number of studies, submissions by counted workloads."""
    sizes = studies.groupby(times.CELL).size().unstack(fill_value=0)
    return sizes.reindex(index=field.submissions, columns=field.counted, fill_value=0).to_numpy(dtype=np.int64)


def _uncertain(table: pd.DataFrame, shares: bootstrap.Terms) -> pd.DataFrame:
    """The table with interval, rank, range of ranks, tie group and probability of being first.

    A submission that was run once has nothing to resample, so it gets no interval. The ranks that a submission may have leave
    out those of submissions that are told apart from it.
    """
    score = table["score"].to_numpy()
    repeated = shares.counts.max(axis=1) > 1
    low, high = bootstrap.intervals(shares)
    better = bootstrap.better(shares)
    order = np.lexsort((table["submission"].to_numpy(dtype=str), -score))
    return table.assign(
        low=np.where(repeated, np.clip(low, 0, score), np.nan),
        high=np.where(repeated, np.clip(high, score, 1), np.nan),
        rank=bootstrap.ranks(score),
        rank_low=1 + better.sum(axis=0),
        rank_high=len(score) - better.sum(axis=1),
        tie_group=bootstrap.tie_groups(better, order),
        p_first=bootstrap.first(shares.draws.mean(axis=-1)),
    )


def _speedups(times: bootstrap.Terms, reference: int, repeated: bool) -> pd.DataFrame:
    """Geometric mean of reference time over own time, where both solved the workload, with its interval."""
    shared = np.isfinite(times.point) & np.isfinite(times.point[reference])
    known = shared.any(axis=1)
    # Logarithms whose mean over all workloads is that over the shared ones.
    weight = np.where(shared, shared.shape[1] / np.maximum(shared.sum(axis=1, keepdims=True), 1), 0.0)

    def logs(rows: list[int] | slice) -> tuple[Array, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):
            point, draws = np.log(times.point[rows]) * weight, np.log(times.draws[:, rows]) * weight
        return np.where(shared, point, 0.0), np.where(shared, draws, 0.0)

    theirs, ours = logs([reference]), logs(slice(None))
    table = pd.DataFrame(
        {"speedup": np.where(known, np.exp((theirs[0] - ours[0]).mean(axis=1)), np.nan), "speedup_over": shared.sum(axis=1)}
    )
    if repeated:
        first, second = times.only([reference])._replace(point=theirs[0], draws=theirs[1]), times._replace(point=ours[0], draws=ours[1])
        low, high = (np.where(known, np.exp(end), np.nan) for end in bootstrap.differences(first, second))
        table = table.assign(speedup_low=low, speedup_high=high)
    return table


def _range(counts: NDArray[np.int64]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"
