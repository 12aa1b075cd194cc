"""Time to target: from trials to runs, to one time per study, to one time per submission and workload.

`runs` has one row per trial: submission, workload, base_workload, study, seed, time. A miss is infinite and takes part.
AlgoPerf's logs (`analysis.algoperf`) become the same table, so all that follows is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

Measure = Literal["seconds", "steps"]
Ruleset = Literal["external", "self"]
CELL = ["submission", "workload"]
GIGABYTE = 1e9
UNFINISHED = ("running", "preempted")


def groups(trials: pd.DataFrame, *, measure: Measure = "seconds") -> list[tuple[str, str, pd.DataFrame]]:
    """(ruleset, fingerprint, trials) of every set of trials that may be ranked together.

    Seconds compare within one fingerprint only; steps compare across them, and the fingerprint is then empty.
    """
    machine = trials["fingerprint"].fillna("unknown").astype("str") if measure == "seconds" else pd.Series("", index=trials.index)
    parts = trials.groupby([trials["ruleset"], machine], sort=True)
    return [(str(ruleset), str(fingerprint), part) for (ruleset, fingerprint), part in parts]


def memory(trials: pd.DataFrame) -> pd.Series[float]:
    """Bytes a trial needs: its measured peak, else the sum of the parts that were measured, else NaN."""
    parts = trials.reindex(columns=[f"bytes_{part}" for part in ("weights", "gradients", "state", "activations")])
    total = parts.astype(float).sum(axis=1, min_count=1)
    peak: pd.Series[float] = trials.reindex(columns=["bytes_peak"])["bytes_peak"].astype(float)
    return peak.fillna(total)


def runs(trials: pd.DataFrame, *, measure: Measure = "seconds", cap: float = np.inf) -> pd.DataFrame:
    """One row per trial with its time to target; infinite if it missed, or needs more than `cap` bytes of memory.

    Where several points were run with the same seeds, every seed is a study: the best point is chosen within it. Else the
    studies are the tuning studies, whose points have seeds of their own, and repetitions of a point are put into studies of
    their own. Under the self-tuning ruleset nothing is chosen among trials: every trial is a study.
    """
    time = trials["reached_seconds" if measure == "seconds" else "reached_step"].astype(float).fillna(np.inf)
    if np.isfinite(cap):
        time = time.where(memory(trials) <= cap, np.inf)
    table = trials[["trial", *CELL, "base_workload", "tuning_study", "seed"]].assign(time=time, point=_point(trials))
    table = table.sort_values([*CELL, "tuning_study", "seed", "trial"], ignore_index=True)
    if (trials["ruleset"] == "self").all():
        table["point"] = 0
    crossed = table.groupby([*CELL, "seed"])["point"].transform("nunique").gt(1).groupby([table[key] for key in CELL]).transform("any")
    table["block"] = table["seed"].where(crossed, table["tuning_study"])
    repetition = table.groupby([*CELL, "block", "point"]).cumcount()
    study = table["block"].astype("str") + "." + repetition.astype("str")
    return table.assign(study=study).drop(columns=["point", "block", "trial"])


def studies(runs: pd.DataFrame) -> pd.DataFrame:
    """The fastest run of each study: submission, workload, base_workload, study, time, label.

    `label` names the study's seeds: studies of several submissions with equal labels are compared in pairs.
    """
    by = [*CELL, "study"]
    seeds = runs["seed"].astype("str").where(runs["seed"].notna())
    grouped = runs.assign(label=seeds).sort_values([*by, "seed"], kind="stable").groupby(by, sort=True)
    result = grouped.agg(base_workload=("base_workload", "first"), time=("time", "min"), label=("label", "first"), n=("time", "size"))
    several = result.index[result["n"] > 1]
    if len(several):
        joined = {study: ",".join(dict.fromkeys(grouped.get_group(study)["label"].fillna(""))) for study in several}
        result.loc[several, "label"] = [joined[study] or None for study in several]
    return result.drop(columns="n").reset_index()


def to_target(studies: pd.DataFrame) -> pd.DataFrame:
    """Median over studies: submission, workload, time, studies, solved (how many studies reached the target)."""
    table = studies.assign(solved=np.isfinite(studies["time"]))
    cells = table.groupby(CELL, sort=True).agg(time=("time", "median"), studies=("time", "size"), solved=("solved", "sum"))
    return cells.reset_index()


def repeated(trials: pd.DataFrame) -> list[str]:
    """Warnings about a self-tuning submission that was run with more than one setting."""
    table = trials[trials["ruleset"] == "self"]
    counts = table[CELL].assign(point=_point(table)).groupby(CELL)["point"].nunique()
    return [
        f"{row.submission} on {row.workload}: self-tuning allows one setting, but {row.point} were run; the median is over all of them"
        for row in counts[counts > 1].reset_index().itertuples()
    ]


def _point(trials: pd.DataFrame) -> pd.Series[int]:
    """A number for every set of hyperparameters."""
    return numbered(trials, [name for name in trials.columns if name.startswith("hp.")])


def numbered(trials: pd.DataFrame, names: Sequence[str]) -> pd.Series[int]:
    """A number for every set of values in these columns."""
    codes = np.zeros(len(trials), dtype=np.int64)
    for name in names:
        column, values = pd.factorize(trials[name].astype("str"), use_na_sentinel=False)
        codes = pd.factorize(codes * len(values) + column)[0]
    return pd.Series(codes, index=trials.index)
