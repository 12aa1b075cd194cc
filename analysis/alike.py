"""The similarity tables of the Fira studies: two trainings, one trajectory, and the error bound, with verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import claims, probes, published, similarity, trajectory
from analysis.figures import studies

LEVELS = {"matrix": "matrix", "mean": "matrix", "index": "column"}
"""The paper's levels; its code logs the mean of the columns' factors as the matrix's."""
ALIKE = 0.9
"""A correlation that we call similar; the paper prints 0.83 to 0.997 and names no line."""
DIRECTION = 0.99
"""A cosine that we call the same direction; the paper prints 0.9998 and more."""
CLOSE = (0.9, 1.1)
"""A ratio of two scaling factors that we call agreement of values."""


def trainings(trials: pd.DataFrame, points: pd.DataFrame) -> dict[str, Any]:
    """Fira against Adam, paired by seed: tables, claims and figures for `reproduction.Result`."""
    kept = trials[trials["settings.probes_every"].notna()] if "settings.probes_every" in trials else trials.iloc[:0]
    by_seed = {name: kept[kept["submission"] == name].drop_duplicates("seed").set_index("seed", drop=False) for name in ("fira", "adam")}
    seeds = sorted(set(by_seed["fira"].index) & set(by_seed["adam"].index))
    if not seeds:
        return {}
    rows, judged, pairs_of_matrices = [], [], []
    for definition in similarity.DEFINITIONS:
        pairs = []
        for seed in seeds:
            low_rank, full_rank = (similarity.of_trial(by_seed[name].loc[seed], points, definition) for name in ("fira", "adam"))
            pairs.append((low_rank, full_rank))
        found = similarity.compare(pairs)
        rows += [_measured(definition, measure, found) for measure in similarity.METRICS]
        for name in ("spearman", "cosine"):
            value, low, high = (found.get(f"{name}{end}", np.nan) for end in ("", "_low", "_high"))
            what = f"{name} of fira's and adam's factors by {definition} is above {ALIKE}"
            printed = f"{_printed(definition)[name]:g}"
            judged.append(claims.told(what, printed, (value, low, high), len(seeds), claims.verdict(low, high, ALIKE)))
        ratio = (found["ratio"], found.get("ratio_low", np.nan), found.get("ratio_high", np.nan))
        what = f"fira's factors by {definition} are as large as adam's (ratio in {CLOSE[0]} to {CLOSE[1]})"
        judged.append(claims.told(what, "not stated", ratio, len(seeds), claims.within(ratio[1], ratio[2], CLOSE)))
        if definition == "matrix":
            pairs_of_matrices = pairs
    x, y = (
        pd.Series({key: np.mean([pair[i].values[key] for pair in pairs_of_matrices]) for key in pairs_of_matrices[0][0].values})
        for i in (0, 1)
    )
    drawn = {"scatter": studies.scatter(x, y, names=("fira", "adam")), "ratios": studies.ratios(x, y, names=("fira", "adam"))}
    return {"tables": {"": pd.DataFrame(rows)}, "claims": pd.DataFrame(judged), "figures": drawn}


def along(trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over all steps and over those after the first subspace, with `steps` saying which; and the measures by step."""
    header, _ = probes.of_trial(trials.iloc[0])
    by_step, gap = trajectory.steps(trajectory.shadows(trials)), int(header["observe"]["shadow"]["gap"])
    parts = [trajectory.averaged(by_step).assign(steps="all")]
    if (by_step["step"] > gap).any():
        parts.append(trajectory.averaged(by_step, after=gap).assign(steps=f"after {gap}"))
    return pd.concat(parts, ignore_index=True), by_step


def one_trajectory(trials: pd.DataFrame) -> dict[str, Any]:
    """Tables, claims and figures of one full-rank trajectory."""
    if trials.empty:
        return {}
    table, by_step = along(trials)
    rows = []
    svd = table[(table["basis"] == "svd") & (table["steps"] == "all")]
    for _, row in svd.iterrows():
        place, seeds = f"{row['pair']}, rank {row['rank']}", int(row["seeds"])
        cosine = (float(row["cosine"]), float(row["cosine_low"]), float(row["cosine_high"]))
        ratio = (float(row["ratio"]), float(row["ratio_low"]), float(row["ratio_high"]))
        what = f"{place}: cosine of the factors is above {DIRECTION}"
        rows.append(claims.told(what, _cosine(row["pair"]), cosine, seeds, claims.verdict(cosine[1], cosine[2], DIRECTION)))
        what = f"{place}: the factors agree in value (ratio in {CLOSE[0]} to {CLOSE[1]})"
        rows.append(claims.told(what, "claimed from the cosine", ratio, seeds, claims.within(ratio[1], ratio[2], CLOSE)))
    lines = by_step[by_step["basis"] == "svd"].assign(line=lambda rows: rows["pair"] + ", rank " + rows["rank"].astype(str))
    drawn = {
        "ratio": studies.series(lines, y="ratio", hue="line", label="geometric mean of the ratio", logarithmic=True),
        "cosine": studies.series(lines, y="cosine", hue="line", label="cosine over matrices"),
    }
    return {"tables": {"": table}, "claims": pd.DataFrame(rows), "figures": drawn}


def bound(trials: pd.DataFrame) -> dict[str, Any]:
    """Tables, claims and figures of the error bound."""
    if trials.empty:
        return {}
    found = trajectory.shadows(trials)
    table = trajectory.bound(found)
    rows = []
    for _, row in table.iterrows():
        printed = "proved" if row["basis"] == "coordinates" else "used as if proved"
        judged = claims.HOLDS if row["violations"] == 0 else claims.FAILS
        what = f"the bound holds in every matrix-step: {row['basis']}, rank {row['rank']}"
        ours = f"{int(row['violations'])} of {int(row['checked'])} broken"
        rows.append({"claim": what, "published": printed, "ours": ours, "seeds": found["seed"].nunique(), "verdict": judged})
    lines = found.assign(line=lambda rows: rows["basis"] + ", rank " + rows["rank"].astype(str))
    lines = lines.assign(tightness=lines["left"] / lines["right"].where(lines["right"] > 0))
    drawn = {
        "tightness": studies.series(lines, y="tightness", hue="line", label="left side over right side (mean)", logarithmic=True),
        "energy": studies.series(lines, y="energy", hue="line", label="share of energy in the subspace"),
    }
    return {"tables": {"": table}, "claims": pd.DataFrame(rows), "figures": drawn}


def _printed(definition: str) -> dict[str, float]:
    """The paper's values for LLaMA-60M at the level that a definition belongs to."""
    level = LEVELS[definition]
    order, distance = (published.table("fira", f"scaling_factor_{name}") for name in ("correlation", "distance"))
    first = order[(order["level"] == level) & (order["size"] == "60M")].iloc[0]
    second = distance[(distance["level"] == level) & (distance["size"] == "60M")].iloc[0]
    found = {name: first[name] for name in ("spearman", "kendall", "pearson")}
    found |= {"cosine": second["cosine"], "mse_normalised": second["mse"]}
    return {name: float(value) for name, value in found.items()}


def _measured(definition: str, measure: str, found: dict[str, float]) -> dict[str, object]:
    """One row of the table of similarities."""
    return {
        "definition": definition,
        "measure": measure,
        "value": found[measure],
        "value_low": found.get(f"{measure}_low", np.nan),
        "value_high": found.get(f"{measure}_high", np.nan),
        "p (descriptive)": found.get(f"{measure}_p", np.nan),
        "entries": found["entries"],
        "pairs": found["pairs"],
        "published, LLaMA-60M": _printed(definition).get(measure, np.nan),
    }


def _cosine(pair: str) -> str:
    rows = published.table("fira", "same_run_distance")
    chosen = rows[(rows["pair"] == pair.replace("E", "residual")) & (rows["steps"] == "all")]
    return f"{float(chosen['cosine'].iloc[0]):.4f}" if len(chosen) else "not stated"
