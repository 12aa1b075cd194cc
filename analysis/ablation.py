"""The perplexity tables of the Fira studies: our runs, what the paper printed, and a verdict on each claim.

`runs` is one row per planned trial that came to its end: variant, seed, `val_ppl` (the exact token mean), `legacy_ppl`
(the family's N/(N+1) convention, in which the paper's numbers are), and the axes that a table sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import claims, published, spread
from analysis.claims import Order

METRICS = ("val_ppl", "legacy_ppl")
PAPER = "fira"


def perplexities(runs: pd.DataFrame, *, by: Sequence[str], printed: dict[tuple[object, ...], float] | None = None) -> pd.DataFrame:
    """Geometric means over seeds with intervals, lowest first, beside the paper's number for LLaMA-60M where it has one."""
    table = None
    for metric in METRICS:
        over = spread.over(runs, metric, by=list(by), logarithmic=True)
        table = over if table is None else table.merge(over.drop(columns="n"), on=list(by))
    assert table is not None
    table = table.rename(columns={"n": "seeds"})
    keys = [tuple(row) for row in table[list(by)].itertuples(index=False)]
    table["published, LLaMA-60M"] = [(printed or {}).get(key, np.nan) for key in keys]
    return table.sort_values("val_ppl", kind="stable", ignore_index=True)


def judged(runs: pd.DataFrame, orders: Sequence[Order]) -> pd.DataFrame:
    """A row per claim or control that could have been run."""
    return pd.DataFrame([order.judge(runs, "val_ppl") for order in orders])


def paper(table: str, column: str, names: dict[str, str]) -> dict[tuple[object, ...], float]:
    """Printed perplexities of a table by our name of the variant."""
    rows = published.table(PAPER, table)
    return {(names[key],): float(value) for key, value in zip(rows[column].map(str), rows["value"], strict=True) if key in names}


def methods() -> dict[tuple[object, ...], float]:
    """The comparison of methods."""
    known = paper("methods_60m", "submission", {name: name for name in ("fira", "flora", "galore", "lora", "relora", "adam")})
    return known | {("only scaling",): _one("scaling_level", "level", "column")}


def variants() -> dict[tuple[object, ...], float]:
    """The parts of Fira."""
    return {
        ("fira",): _one("methods_60m", "submission", "fira"),
        ("fira, one factor per matrix",): _one("parts_60m", "part", "matrix_level"),
        ("without scaling (GaLore-add)",): _one("parts_60m", "part", "without_scaling"),
        ("without the residual",): _one("methods_60m", "submission", "galore"),
        ("only scaling",): _one("scaling_level", "level", "column"),
        ("only scaling, one factor per matrix",): _one("scaling_level", "level", "matrix"),
        ("only scaling, basis coordinates",): _one("scaling_projection", "projection", "without_svd"),
    }


def limiters() -> dict[tuple[object, ...], float]:
    """The stabilisers; the paper's constants are unknown, so ours stand at 0.5, and its clipping may be either of two."""
    named = {
        "norm_growth_limiter": "fira",
        "without_limiter": "no limiter",
        "gradient_shrink": "fira, limiter shrink",
        "tensor_wise_scaling": "fira, limiter tensor",
        "gradient_clipping": "no limiter, global gradient clipped at 1",
    }
    growth = {"1.1": "fira, gamma 1.1", "1.001": "fira, gamma 1.001", "1.0": "fira, gamma 1"}
    return paper("stabilisers", "limiter", named) | paper("limiter_gamma", "gamma", growth)


def ranks(width: int = 512) -> dict[tuple[object, ...], float]:
    """The sweep of the rank, by variant and share of the width; the released 60M model is 512 wide."""
    names = {"fira": "fira", "fira_only_scaling": "only scaling", "galore": "galore"}
    rows = published.table(PAPER, "rank_sweep")
    found: dict[tuple[object, ...], float] = {}
    for submission, rank, value in zip(rows["submission"], rows["hp.rank"], rows["value"], strict=True):
        share = 1.0 if rank == "full" else round(int(rank) / width, 4)
        found[names[submission], share] = float(value)
    return found | {("adam", 1.0): _one("methods_60m", "submission", "adam")}


def falls(runs: pd.DataFrame, variant: str) -> tuple[float, float, float, int]:
    """(low, mean, high, n) of the log of perplexity at the smallest rank over that at the largest, paired by seed."""
    mine = runs[runs["variant"] == variant]
    if mine.empty:
        return np.nan, np.nan, np.nan, 0
    table = mine.pivot_table(index="seed", columns="share", values="val_ppl").dropna()
    if table.shape[1] < 2:
        return np.nan, np.nan, np.nan, 0
    return claims.interval(np.log(table[table.columns.min()].to_numpy(float) / table[table.columns.max()].to_numpy(float)))


def _one(table: str, column: str, key: str) -> float:
    rows = published.table(PAPER, table)
    return float(rows.loc[rows[column] == key, "value"].iloc[0])
