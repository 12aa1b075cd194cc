"""What a reader of a score must know: sentences about missing cells, misses, few seeds, and mixed conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import naming, times

SHOWN = 6
"""Names listed in one sentence before the rest is counted."""
FEW = 20
"""Studies below which the widening of an interval is worth a word."""


def coverage(studies: pd.DataFrame, submissions: Sequence[str], workloads: Sequence[str], held_out: Sequence[tuple[str, str]]) -> list[str]:
    """Which workloads are left out, which nobody ran, and which cells are empty."""
    variants = [variant for variant, _ in held_out]
    present = set(studies["workload"].astype("str"))
    notes = _orphans(studies, workloads)
    if rest := sorted(present - {*workloads, *variants}):
        notes.append(f"scored on a subset, {len(workloads)} of {len(workloads) + len(rest)} workloads; left out: {listed(rest)}")
    if absent := [name for name in workloads if name not in present]:
        notes.append(f"no trial of anybody on {listed(absent)}: counts as unsolved, for all")
    if variants:
        notes.append(f"held-out variants that may disqualify: {listed(f'{variant} (of {base})' for variant, base in held_out)}")
    ran = set(map(tuple, studies[times.CELL].drop_duplicates().astype("str").to_numpy()))
    gaps = {one: [name for name in (*workloads, *variants) if name in present and (one, name) not in ran] for one in submissions}
    return notes + [f"{submission}: no trial on {listed(missing)}, counts as unsolved" for submission, missing in gaps.items() if missing]


def _orphans(studies: pd.DataFrame, workloads: Sequence[str]) -> list[str]:
    """Held-out variants that count like any workload, because nobody ran what they are variants of."""
    pairs = studies.dropna(subset=["base_workload"]).drop_duplicates("workload")[["workload", "base_workload"]]
    paired = naming.variants(studies)
    return [
        f"{variant} is a held-out variant of {base}, which nobody ran in this form, so it counts like any other workload"
        for variant, base in sorted(pairs.astype("str").itertuples(index=False))
        if variant in workloads and variant not in paired
    ]


def uneven(table: pd.DataFrame) -> Iterable[str]:
    """Sentences about submissions of which there are fewer studies, or studies with fewer trials, than of others."""
    cells = table.groupby(["submission", "workload", "study"]).size()
    studies = cells.groupby(["submission", "workload"]).size()
    for what, counts in (("trials per study", cells), ("studies per workload", studies)):
        lowest, most = counts.groupby("submission").min(), int(counts.max())
        short = [f"{submission} ({lowest[submission]})" for submission in lowest.index[lowest < most]]
        if short:
            yield f"fewer than {most} {what}: {listed(short)}; what is missing is neither a hit nor a miss"


def outcome(point: pd.DataFrame, reference: str | None) -> list[str]:
    """Workloads that nobody solved, a field of one, and what the reference missed."""
    solved = pd.DataFrame(np.isfinite(point), index=point.index, columns=point.columns)
    notes = []
    if unsolved := [str(name) for name in point.columns if not solved[name].any()]:
        effect = "no target was reached, so every score is 0" if len(unsolved) == len(point.columns) else "adds 0 to every score"
        notes.append(f"nobody solved {listed(unsolved)}: {effect}")
    if len(point) == 1:
        notes.append("one submission only: it is its own fastest, so its score is the share of workloads that it solved")
    if reference is not None and not solved.loc[reference].all():
        missed = [str(name) for name in point.columns if not solved.loc[reference, name]]
        notes.append(f"speed-ups leave out what the reference {reference} did not solve: {listed(missed)}")
    if reference is not None:
        notes.append("speed-up: geometric mean over the workloads that both solved (speedup_over of them); misses do not enter")
    return notes


def certainty(counts: NDArray[np.int64], draws: int) -> list[str]:
    """What the intervals rest on, or why there are none.

    Args:
        counts: studies, submissions by workloads.
    """
    ran = counts[counts > 0]
    if ran.size == 0 or ran.max() == 1:
        return ["no intervals: every submission ran one study (seed) per workload, so nothing says how much a time varies; run more seeds"]
    if not draws:
        return ["no intervals: 0 bootstrap draws were asked for"]
    widened = ", widened as Student's t is for few" if ran.min() < FEW else ""
    notes = [f"intervals: 95 %, bootstrap over {_span(ran)} studies per submission and workload{widened}, {draws} draws"]
    if (singles := int((ran == 1).sum())) > 0:
        notes.append(f"{singles} of {ran.size} cells rest on one study and add no spread: intervals that involve them are too narrow")
    return notes


def conditions(trials: pd.DataFrame) -> list[str]:
    """What makes trials of these records hard to compare: machines, targets, data, sources, ends."""
    notes = []
    if trials["fingerprint"].nunique(dropna=False) > 1:
        machines = listed(sorted(trials["fingerprint"].fillna("unknown").astype("str").unique()))
        notes.append(f"several fingerprints ({machines}): seconds are ranked within each alone; only steps to target compare across them")
    for column, what in (("target_value", "targets"), ("target_name", "target metrics"), ("data_sha256", "data sets")):
        notes += [f"{name}: {count} different {what}; times to them do not compare" for name, count in _several(trials, "workload", column)]
    if several := [name for name, _ in _several(trials, "submission", "source_sha256")]:
        notes.append(f"several versions of the source of {listed(several)}: their trials may not be of one algorithm")
    if provisional := sorted(trials.loc[trials["target_provisional"].astype(bool), "workload"].astype("str").unique()):
        notes.append(f"provisional targets: {listed(provisional)}")
    unfinished = trials["status"].isin(times.UNFINISHED) & trials["reached_seconds"].isna()
    if unfinished.any():
        have, they = ("has", "it counts") if len(trials) == 1 else ("have", "they count")
        notes.append(
            f"{int(unfinished.sum())} of {counted(len(trials), 'trial')} {have} not ended; {they} as missed until the target is reached"
        )
    bad = trials.loc[trials["status"].isin(["failed", "out_of_memory", "diverged"]), "status"].value_counts()
    notes += [f"{counted(count, 'trial')} ended as {status}: missed" for status, count in bad.items()]
    if aimless := sorted(trials.loc[trials["target_value"].isna(), "workload"].astype("str").unique()):
        notes.append(f"no target, so not scored: {listed(aimless)}")
    return notes


def listed(names: Iterable[str]) -> str:
    """The names with commas; beyond a few, how many more."""
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def counted(count: int, what: str) -> str:
    """`1 trial`, `2 trials`, `3 studies`."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def _several(trials: pd.DataFrame, by: str, column: str) -> Iterable[tuple[str, int]]:
    counts = trials.groupby(by, sort=True)[column].nunique()
    return ((str(name), int(count)) for name, count in counts[counts > 1].items())


def _span(counts: NDArray[np.int64]) -> str:
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
