"""Training curves thinned to a few hundred rows, however many trials and points there are."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

Axis = Literal["step", "tokens", "seconds"]
GRID = 200
"""Most places along a curve; more would not be told apart on paper."""
BAND = (5.0, 95.0)
"""Percentiles of the seeds between which the band lies."""


def thinned(trials: pd.DataFrame, points: pd.DataFrame, *, name: str = "val_loss", x: Axis = "step") -> pd.DataFrame:
    """One row per workload, submission and place on a common grid of `x`: median of `name`, its band over trials, and `n`.

    Each trial is interpolated linearly inside its own range. A place counts only while at least half of the trials get
    there, so that a median never rests on the few that ran longest.
    """
    chosen = points.loc[(points["name"] == name) & points["trial"].isin(trials["trial"]), ["trial", x, "value"]]
    chosen = chosen[np.isfinite(chosen["value"])].sort_values(x, kind="stable")
    runs = {str(trial): rows[[x, "value"]].to_numpy(float) for trial, rows in chosen.groupby("trial", observed=True)}
    tables = []
    for (workload, submission), group in trials.groupby(["workload", "submission"], sort=False):
        measured = [runs[trial] for trial in group["trial"] if trial in runs]
        if measured:
            table = _curve(measured, x, name)
            tables.append(table.assign(workload=str(workload), submission=str(submission)))
    if not tables:
        return pd.DataFrame(columns=["workload", "submission", x, name, f"{name}_low", f"{name}_high", "n"])
    return pd.concat(tables, ignore_index=True)[["workload", "submission", x, name, f"{name}_low", f"{name}_high", "n"]]


def _curve(runs: list[np.ndarray], x: str, name: str) -> pd.DataFrame:
    """Median and band of several trials, each given as rows of (x, value)."""
    places = np.unique(np.concatenate([run[:, 0] for run in runs]))
    # Times differ from trial to trial, so their union is not a grid; steps and tokens usually are one.
    if x == "seconds" or len(places) > GRID:
        places = np.linspace(places[0], places[-1], min(GRID, max(len(run) for run in runs) * 2))
    values = np.array([np.interp(places, run[:, 0], run[:, 1], left=np.nan, right=np.nan) for run in runs])
    count = np.isfinite(values).sum(axis=0)
    kept = count >= max(1, len(runs) / 2)
    low, middle, high = np.nanpercentile(values[:, kept], [BAND[0], 50.0, BAND[1]], axis=0)
    return pd.DataFrame({x: places[kept], name: middle, f"{name}_low": low, f"{name}_high": high, "n": count[kept]})
