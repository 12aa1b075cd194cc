"""Speed-up over a tuned baseline: in steps for the same final loss (data efficiency), in time to target, and over model size.

A loss in the middle of a schedule is not what a shorter run would have ended with, so the baseline is read at the ends
of runs with several horizons, each tuned (Wen et al. 2025, arXiv 2509.02046). Nothing is extrapolated.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis import naming
from analysis.tables import CELL, configured

LEVEL = 0.95
BASELINES = ("adamw", "adam")
HORIZONS = naming.BUDGET | naming.AIM
"""Overrides that make another horizon of the same problem."""
PLACES = 40
"""Of a fitted line."""


def final_losses(trials: pd.DataFrame, points: pd.DataFrame, *, name: str = "val_loss") -> pd.DataFrame:
    """One row per trial that used its whole step budget: workload, submission, parameters, seed, point (hyperparameters), steps, loss.

    A trial that stopped at its target or at its time budget was in the middle of its schedule.
    """
    found = points.loc[points["name"] == name, ["trial", "step", "value"]].astype({"trial": "str"})
    last = found.sort_values("step", kind="stable").drop_duplicates("trial", keep="last").set_index("trial")
    table = trials[["workload", "submission", "parameters", "seed"]].assign(
        point=configured(trials)["configuration"],
        steps=trials["trial"].map(last["step"]).astype(float),
        loss=trials["trial"].map(last["value"]).astype(float),
    )
    whole = trials["status"].isin(["reached", "missed"]) & (table["steps"] >= trials["budget_steps"])
    result: pd.DataFrame = table[whole & np.isfinite(table["loss"])].reset_index(drop=True)
    return result


def tuned(losses: pd.DataFrame) -> pd.DataFrame:
    """The best hyperparameters per problem, submission and steps: loss is its mean over seeds, with deviation and seeds.

    A `problem` is a workload without the overrides that only set its budget or its target.
    """
    by = ["problem", "parameters", "submission", "steps"]
    names = {name: naming.without(name, HORIZONS) for name in losses["workload"].unique()}
    cells = losses.assign(problem=losses["workload"].map(names)).groupby([*by, "point"])
    means = cells.agg(
        workload=("workload", "first"), loss=("loss", "mean"), deviation=("loss", "std"), seeds=("loss", "size")
    ).reset_index()
    best = means.loc[means.groupby(by)["loss"].idxmin()]
    return best.sort_values(by, ignore_index=True)


def baseline_of(losses: pd.DataFrame) -> str | None:
    """Which of `BASELINES` ran, by preference with the most workloads (horizons among them); None if neither did."""
    ran = {name: losses.loc[losses["submission"] == name, "workload"].nunique() for name in BASELINES}
    best = max(BASELINES, key=lambda name: ran[name])
    return best if ran[best] else None


def speedups(losses: pd.DataFrame, *, baseline: str = "adam") -> pd.DataFrame:
    """Per problem, submission and run length: workload, parameters, submission, steps, loss, baseline_steps, speedup.

    The baseline's steps are interpolated on log(steps) against loss, between tuned horizons; NaN outside them.

    Raises:
        ValueError: the baseline did not run.
    """
    table = tuned(losses)
    if baseline not in set(table["submission"]):
        raise ValueError(f"baseline {baseline!r}: expected one of {', '.join(sorted(table['submission'].unique()))}")
    parts = []
    for _, part in table.groupby(["problem", "parameters"], sort=True):
        curve = part[part["submission"] == baseline].sort_values("steps")
        # More steps never hurt a tuned baseline; where noise says so, the shorter run's loss stands.
        loss = np.minimum.accumulate(curve["loss"].to_numpy())
        distinct = np.concatenate([[True], np.diff(loss) < 0]) if len(loss) else np.array([], dtype=bool)
        rows = part[part["submission"] != baseline]
        steps = np.full(len(rows), np.nan)
        if distinct.any():
            x, y = -loss[distinct], np.log(curve["steps"].to_numpy()[distinct])
            steps = np.exp(np.interp(-rows["loss"].to_numpy(), x, y, left=np.nan, right=np.nan))
        parts.append(rows.assign(baseline_steps=steps, speedup=steps / rows["steps"]))
    columns = ["workload", "parameters", "submission", "steps", "loss", "baseline_steps", "speedup"]
    return pd.concat(parts, ignore_index=True)[columns]


def beside(losses: pd.DataFrame, summary: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """What `speedups` gives, with `time_speedup`: the baseline's time to target over the submission's, on one machine.

    Args:
        summary: what `tables.summary` gives; workloads without a final loss have a row too.
    """
    where = ["workload", "fingerprint"]
    theirs = summary.loc[summary["submission"] == baseline].set_index(where)["reached_seconds"].rename("theirs")
    times = summary.join(theirs, on=where)
    both = np.isfinite(times["reached_seconds"]) & np.isfinite(times["theirs"])
    times = times[both & (times["submission"] != baseline)].assign(time_speedup=lambda rows: rows["theirs"] / rows["reached_seconds"])
    data = speedups(losses, baseline=baseline)
    table = data.merge(times.drop_duplicates(CELL)[[*CELL, "time_speedup"]], on=CELL, how="outer")
    sizes = losses.drop_duplicates("workload").set_index("workload")["parameters"]
    return table.assign(parameters=table["parameters"].fillna(table["workload"].map(sizes))).sort_values(
        ["submission", "parameters", "steps"], ignore_index=True
    )


def trend(speedups: pd.DataFrame, *, at: float | None = None, y: str = "speedup") -> pd.DataFrame:
    """Power law of `y` against model size: submission, sizes, exponent, low, high, and the speed-up `at` a size if given.

    Least squares on logarithms; the interval is Student's t at 95 % and needs three sizes, else it is NaN.
    """
    rows = []
    for submission, part in speedups.dropna(subset=[y, "parameters"]).groupby("submission", sort=True):
        x, logs = np.log(part["parameters"].to_numpy(dtype=float)), np.log(part[y].to_numpy(dtype=float))
        sizes = len(np.unique(x))
        exponent = wide = there = np.nan
        if sizes > 1:
            fit = stats.linregress(x, logs)
            exponent = float(fit.slope)
            wide = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 2) * fit.stderr) if sizes > 2 else np.nan
            there = np.nan if at is None else float(np.exp(fit.intercept + fit.slope * np.log(at)))
        rows.append((submission, sizes, exponent, exponent - wide, exponent + wide, there))
    table = pd.DataFrame(rows, columns=["submission", "sizes", "exponent", "low", "high", "speedup"])
    return table.drop(columns="speedup") if at is None else table


def line(speedups: pd.DataFrame, *, y: str = "speedup") -> pd.DataFrame:
    """The fitted power law inside the sizes that ran: submission, parameters, `y`, `y_low`, `y_high` (95 %, of the mean)."""
    parts = []
    for submission, part in speedups.dropna(subset=[y, "parameters"]).groupby("submission", sort=True):
        x, logs = np.log(part["parameters"].to_numpy(dtype=float)), np.log(part[y].to_numpy(dtype=float))
        sizes = len(np.unique(x))
        if sizes < 2:
            continue
        fit = stats.linregress(x, logs)
        places = np.linspace(x.min(), x.max(), PLACES)
        middle = fit.intercept + fit.slope * places
        half = np.full(PLACES, np.nan)
        if sizes > 2:
            noise = np.sqrt(((logs - fit.intercept - fit.slope * x) ** 2).sum() / (len(x) - 2))
            spread = np.sqrt(1 / len(x) + (places - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
            half = stats.t.ppf(0.5 + LEVEL / 2, len(x) - 2) * noise * spread
        ends = {y: middle, f"{y}_low": middle - half, f"{y}_high": middle + half}
        parts.append(
            pd.DataFrame({"submission": submission, "parameters": np.exp(places), **{name: np.exp(end) for name, end in ends.items()}})
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["submission", "parameters", y, f"{y}_low", f"{y}_high"])
