"""Are the scaling factors of two trainings alike? Vectors of phi, one entry per matrix or per index, compared in several ways.

Definitions of an entry, each averaged over the steps of the grid: `matrix`, the quotient of Frobenius norms (the paper's text);
`mean`, the mean of the quotients of all indices (its released code); `index`, the quotient of one long-axis index, at places drawn
once per matrix. Which pairs are alike (correlation) and how large they are (cosine of the whole, geometric-mean ratio) are different
questions: a normalised mean squared error is 2 (1 - cosine) / n and adds nothing to the cosine.
P-values assume independent entries, which matrices of one network are not: read them as descriptive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis import bootstrap, probes

Definition = Literal["matrix", "mean", "index"]
Over = Literal["both", "matrices", "seeds"]
Array = NDArray[np.float64]
DEFINITIONS: tuple[Definition, ...] = ("matrix", "mean", "index")
POINT = {"matrix": "phi_matrix", "mean": "phi"}
METRICS = ("spearman", "kendall", "pearson", "cosine", "mse", "mse_normalised", "ratio")
DRAWS = 300


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The averaged scaling factors of one trial, and what they may be compared with."""

    trial: str
    definition: Definition
    steps: tuple[int, ...]
    """The grid they were averaged over."""
    setting: dict[str, Any]
    """What two trainings must share: workload, data, seed, and how indices were chosen."""
    values: dict[str, Array]
    """By matrix: one value, or one for each kept index."""


def of_trial(trial: pd.Series, points: pd.DataFrame, definition: Definition = "matrix") -> Factors:
    """The factors of one row of `trials`.

    Raises:
        ValueError: the trial recorded none; the message says how to get them.
    """
    setting = {"workload": trial["workload"], "data": trial["data_sha256"], "seed": trial["seed"]}
    if definition == "index":
        header, rows = probes.of_trial(trial)
        chosen = [row for row in rows if row.name == "phi" and row.param]
        series: dict[str, list[Array]] = {}
        lengths = {row.param: row.length for row in chosen}
        for row in chosen:
            series.setdefault(row.param, []).append(row.values.astype(float))
        values = {param: np.mean(found, axis=0) for param, found in series.items()}
        setting |= {"indices kept of an axis": header["indices"], "lengths of the axes": lengths}
        steps = sorted({row.step for row in chosen})
    else:
        mine = points[(points["trial"] == trial["trial"]) & (points["name"] == POINT[definition]) & points["param"].notna()]
        mine = mine.drop_duplicates(["step", "param"], keep="last")
        values = {str(param): np.array([mean]) for param, mean in mine.groupby("param", observed=True)["value"].mean().items()}
        steps = sorted(mine["step"].unique().tolist())
    if not values:
        raise ValueError(
            f"trial {trial['trial']} ({trial['submission']}, seed {trial['seed']}) recorded no scaling factors by {definition}:"
            " run it with probes_every (a method that hands out phi, or a full-rank Adam)"
        )
    return Factors(trial=str(trial["trial"]), definition=definition, steps=tuple(steps), setting=setting, values=values)


def check(first: Factors, second: Factors) -> None:
    """Whether two trainings may be compared.

    Raises:
        ValueError: they differ in definition, matrices, grid, or in what was trained on; the message says in which.
    """
    pair = f"trials {first.trial} and {second.trial} cannot be compared"
    if first.definition != second.definition:
        raise ValueError(f"{pair}: factors by {first.definition} and by {second.definition}; take one definition for both")
    if apart := sorted(first.values.keys() ^ second.values.keys()):
        raise ValueError(f"{pair}: {len(apart)} matrices have factors in one of them only, {apart[0]} among them")
    if first.steps != second.steps:
        grids = " and ".join(f"{len(one.steps)} steps up to {one.steps[-1]}" for one in (first, second))
        raise ValueError(
            f"{pair}: recorded on different grids ({grids}); use one probes_every and one budget, and runs that came to their end"
        )
    for what, value in first.setting.items():
        if value != second.setting.get(what):
            told = "" if isinstance(value, dict) else f" ({value} and {second.setting.get(what)})"
            raise ValueError(f"{pair}: different {what}{told}; both must see the same data in the same order")


def metrics(x: Array, y: Array) -> dict[str, float]:
    """All measures of two vectors of positive factors; `<name>_p` are p-values of the three correlations."""
    found: dict[str, float] = {}
    for name, measure in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau), ("pearson", stats.pearsonr)):
        result = measure(x, y)
        found[name], found[f"{name}_p"] = float(result.statistic), float(result.pvalue)
    return found | distances(x, y)


def distances(x: Array, y: Array) -> dict[str, float]:
    """Cosine, mean squared error raw and of the vectors scaled to length one, geometric mean of x / y."""
    unit_x, unit_y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return {
        "cosine": float(unit_x @ unit_y),
        "mse": float(np.mean((x - y) ** 2)),
        "mse_normalised": float(np.mean((unit_x - unit_y) ** 2)),
        "ratio": float(np.exp(np.mean(np.log(x / y)))),
    }


def compare(pairs: Sequence[tuple[Factors, Factors]], *, over: Over = "both", draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Every measure as its mean over pairs of trainings (one per seed), with 95 % bootstrap intervals `<name>_low` and `_high`.

    A draw takes matrices, with all their indices, and pairs with replacement; `over` leaves one of the two as it is.
    `entries` is the length of the vectors, `pairs` their number. P-values are those of the first pair.

    Raises:
        ValueError: a pair may not be compared, or the pairs differ among each other.
    """
    for first, second in pairs:
        check(first, second)
    names = sorted(pairs[0][0].values)
    if any(sorted(first.values) != names or first.definition != pairs[0][0].definition for first, _ in pairs):
        raise ValueError("the pairs of trainings have different matrices or definitions: compare those of one workload at a time")
    vectors = [tuple([one.values[name] for name in names] for one in pair) for pair in pairs]
    whole = [metrics(np.concatenate(x), np.concatenate(y)) for x, y in vectors]
    found = {name: float(np.mean([one[name] for one in whole])) for name in METRICS}
    found |= {name: value for name, value in whole[0].items() if name.endswith("_p")}
    rng = np.random.default_rng(seed)
    table = np.array([list(_draw(vectors, over, rng)) for _ in range(draws)])
    if len(pairs) > 1 or over != "seeds":  # one pair has no spread over seeds
        low, high = bootstrap.interval(table)
        found |= {f"{name}_low": float(low[i]) for i, name in enumerate(METRICS)}
        found |= {f"{name}_high": float(high[i]) for i, name in enumerate(METRICS)}
    return found | {"entries": sum(map(len, vectors[0][0])), "pairs": len(pairs)}


def _draw(vectors: Sequence[tuple[list[Array], ...]], over: Over, rng: np.random.Generator) -> list[float]:
    """The measures of one resample, in the order of `METRICS`."""
    count = len(vectors[0][0])
    places = np.arange(count) if over == "seeds" else rng.integers(0, count, count)
    chosen = np.arange(len(vectors)) if over == "matrices" else rng.integers(0, len(vectors), len(vectors))
    found: dict[int, list[float]] = {}
    for number in set(chosen.tolist()):
        x, y = (np.concatenate([part[place] for place in places]) for part in vectors[number])
        measured = metrics(x, y)
        found[number] = [measured[name] for name in METRICS]
    return [float(value) for value in np.mean([found[number] for number in chosen.tolist()], axis=0)]
