"""One trajectory instead of two trainings: shadow moments beside a full-rank run, and the error bound along it.

Vectors hold phi(X) of every matrix, for X the gradient G, its projection R, or the residual E = G - P R. On vectors scaled to length
one the distance is sqrt(2 (1 - cosine)): it repeats the cosine. The raw ratio says whether values agree.
"""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from analysis import probes, similarity, spread

PREFIX = "shadow."
PAIRS = (("R", "G"), ("R", "E"), ("G", "E"))
MEASURES = ("cosine", "distance_normalised", "distance", "ratio", "spearman")
BOUNDS = {"cosine": (-1.0, 1.0), "distance_normalised": (0.0, 2.0), "distance": (0.0, math.inf), "spearman": (-1.0, 1.0)}
"""What values of a measure are possible."""
SLACK = (1e-5, 1e-6)
"""Of the bound: relative to its right side, and to phi^2, for rounding in fp32."""


def shadows(trials: pd.DataFrame) -> pd.DataFrame:
    """What the shadow moments of these trials gave: trial, seed, rank, basis, step, param, and a column for each value.

    `phi.G`, `phi.R`, `phi.E`, `energy`, `left`, `right`, as runner/shadow.py defines them.

    Raises:
        ValueError: none of the trials has shadow moments.
    """
    tables = []
    for _, trial in trials.iterrows():
        header, rows = probes.of_trial(trial)
        found = probes.matrices(header, rows, PREFIX)
        if found.empty:
            continue
        name = found["name"].str.partition("@")
        wide = found.assign(name=name[0], place=name[2])
        own = wide[wide["place"] == ""].set_index(["step", "param"])["value"]
        table = wide[wide["place"] != ""].pivot(index=["place", "step", "param"], columns="name", values="value").reset_index()
        rank = table["place"].str.partition(".")
        table["phi.G"] = own.loc[pd.MultiIndex.from_frame(table[["step", "param"]])].to_numpy()
        tables.append(table.assign(trial=trial["trial"], seed=trial["seed"], rank=rank[0].astype(int), basis=rank[2]).drop(columns="place"))
    if not tables:
        raise ValueError("no shadow moments in these trials: run the study fira-trajectory")
    return pd.concat(tables, ignore_index=True).rename_axis(columns=None)


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """The measures of every pair at every step: trial, seed, rank, basis, pair, step, and `MEASURES`."""
    rows = []
    for key, group in table.groupby(["trial", "seed", "rank", "basis", "step"], sort=True):
        for first, second in PAIRS:
            x, y = group[f"phi.{first}"].to_numpy(float), group[f"phi.{second}"].to_numpy(float)
            measured = similarity.distances(x, y)
            n = len(x)
            row = dict(zip(("trial", "seed", "rank", "basis", "step"), key, strict=True))
            rows.append(
                {
                    **row,
                    "pair": f"{first}-{second}",
                    "cosine": measured["cosine"],
                    "distance_normalised": (n * measured["mse_normalised"]) ** 0.5,
                    "distance": (n * measured["mse"]) ** 0.5,
                    "ratio": measured["ratio"],
                    "spearman": float(stats.spearmanr(x, y).statistic),
                }
            )
    return pd.DataFrame(rows)


def averaged(by_step: pd.DataFrame, *, after: int = 0) -> pd.DataFrame:
    """Means over the steps beyond `after`, then over seeds with 95 % intervals; one row per rank, basis and pair."""
    keys = ["rank", "basis", "pair"]
    means = by_step[by_step["step"] > after].groupby([*keys, "seed"], sort=False)[list(MEASURES)].mean().reset_index()
    result = means[keys].drop_duplicates()
    for measure in MEASURES:
        within = BOUNDS.get(measure, (-math.inf, math.inf))
        over = spread.over(means, measure, by=keys, logarithmic=measure == "ratio", within=within)
        result = result.merge(over if measure == MEASURES[0] else over.drop(columns="n"), on=keys)
    return result.rename(columns={"n": "seeds"}).sort_values(["basis", "rank"], kind="stable", ignore_index=True)


def bound(table: pd.DataFrame) -> pd.DataFrame:
    """Both sides of |phi^2(G) - phi^2(R)| <= (c_max^2 - c_min^2) (1 - w), per rank and basis.

    `checked` matrix-steps, `violations` among them and their rate, median `tightness` (left over right) and captured `energy` w.
    """
    relative, absolute = SLACK
    over = table["left"] > table["right"] * (1 + relative) + absolute * table["phi.G"] ** 2
    work = table.assign(violations=over, tightness=table["left"] / table["right"].where(table["right"] > 0))
    groups = work.groupby(["basis", "rank"], sort=True)
    result = groups.agg(
        checked=("left", "size"), violations=("violations", "sum"), tightness=("tightness", "median"), energy=("energy", "median")
    ).reset_index()
    return result.assign(violation_rate=result["violations"] / result["checked"])
