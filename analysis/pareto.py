"""Memory as an axis: the score under a cap, the curve of scores over caps, and the front of (memory, time, quality)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import notes, profiles, scores, times
from analysis.times import GIGABYTE

CAPS = 40
"""Caps on a curve at most; more distinct memories than that are thinned."""


def within(trials: pd.DataFrame, cap: float, *, measure: times.Measure = "seconds") -> pd.DataFrame:
    """Time to target per workload and submission among trials that need at most `cap` bytes, fastest first.

    Columns: workload, submission, time, studies, solved. A submission that does not fit has an infinite time.
    """
    table = times.to_target(times.studies(times.runs(trials, measure=measure, cap=cap)))
    columns = ["workload", "submission", "time", "studies", "solved"]
    return table[columns].sort_values(["workload", "time", "submission"], ignore_index=True)


def cap_notes(trials: pd.DataFrame, cap: float) -> list[str]:
    """Sentences on how many trials the cap shuts out, and on how many nothing is known."""
    need = times.memory(trials)
    over = int((need > cap).sum())
    said = [
        f"memory cap {cap / GIGABYTE:g} GB (1 GB = 1e9 bytes): missed by {over} of {notes.counted(len(trials), 'trial')}, which need more"
    ]
    if unknown := int(need.isna().sum()):
        said.append(f"missed under the cap: {notes.counted(unknown, 'trial')} that recorded no memory")
    return said


def curve(trials: pd.DataFrame, *, measure: times.Measure = "seconds", r_max: float = profiles.R_MAX) -> pd.DataFrame:
    """Score against memory cap: cap (bytes), submission, score; one step wherever another trial begins to fit.

    Ratios are to the fastest submission under the same cap.
    """
    caps = np.unique(times.memory(trials).dropna().to_numpy())
    if len(caps) > CAPS:
        caps = np.unique(np.quantile(caps, np.linspace(0, 1, CAPS), method="inverted_cdf"))
    parts = []
    for cap in caps:
        studies = times.studies(times.runs(trials, measure=measure, cap=float(cap)))
        board = scores.leaderboard(studies, draws=0, r_max=r_max)
        parts.append(board[["submission", "score"]].assign(cap=float(cap)))
    if not parts:
        return pd.DataFrame({"cap": pd.Series(dtype=float), "submission": pd.Series(dtype=str), "score": pd.Series(dtype=float)})
    return pd.concat(parts, ignore_index=True)[["cap", "submission", "score"]]


def measured(trials: pd.DataFrame, points: pd.DataFrame, *, by: Sequence[str] = ("workload", "submission")) -> pd.DataFrame:
    """Medians over trials per group: memory (bytes), time (seconds to target), quality (best value of the target's metric).

    Quality is turned so that smaller is better: a maximised metric has its sign changed.
    """
    sign = trials["target_mode"].map({"max": -1.0}).fillna(1.0)
    own = points["name"].astype("str") == points["trial"].astype("str").map(trials.set_index("trial")["target_name"])
    values = points.loc[own, ["trial", "value"]].astype({"trial": "str"})
    signs = pd.Series(sign.to_numpy(), index=trials["trial"])
    best = (values["value"] * values["trial"].map(signs)).groupby(values["trial"]).min()
    table = trials[list(by)].assign(
        memory=times.memory(trials), time=trials["reached_seconds"].astype(float).fillna(np.inf), quality=trials["trial"].map(best)
    )
    return table.groupby(list(by), sort=True)[["memory", "time", "quality"]].median().reset_index()


def front(table: pd.DataFrame, *, axes: Sequence[str] = ("memory", "time", "quality"), within: str | None = "workload") -> pd.DataFrame:
    """The table with a column `front`: no other row of the same workload is as good on every axis and better on one.

    Smaller is better on all axes. A row with an axis that was not measured is on no front.
    """
    parts = [table] if within is None else [part for _, part in table.groupby(within, sort=False)]
    flags = pd.Series(False, index=table.index)
    for part in parts:
        values = part[list(axes)].to_numpy(dtype=float)
        known = ~np.isnan(values).any(axis=1)
        no_worse = (values[:, None] <= values[None]).all(axis=-1)
        better = (values[:, None] < values[None]).any(axis=-1)
        flags[part.index] = known & ~(no_worse & better).any(axis=0)
    return table.assign(front=flags)
