"""Means and their intervals over seeds: the one place where a spread becomes an interval.

Intervals are Student's t at 95 %. For three seeds they are wide, as they should be: percentiles of a bootstrap over
three values cannot leave their range. One value gives no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95


def over(
    table: pd.DataFrame,
    column: str,
    *,
    by: Sequence[str],
    logarithmic: bool = False,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> pd.DataFrame:
    """One row per group of `by`: `column` (mean), `<column>_low`, `<column>_high`, `n` (how many finite values).

    Args:
        logarithmic: geometric mean and interval, for times and other positive numbers that compare by ratio.
        within: what values are possible, such as -1 to 1 for a correlation; an interval ends there.
    """
    values = table[column].astype(float).where(np.isfinite(table[column].astype(float)))
    work = table[list(by)].assign(**{column: np.log(values) if logarithmic else values})
    groups = work.groupby(list(by), dropna=False, sort=False, observed=True)[column]
    result = groups.agg(["mean", "std", "count"]).reset_index()
    half = half_width(result["std"].to_numpy(float), result["count"].to_numpy(int))
    ends = {column: result["mean"], f"{column}_low": result["mean"] - half, f"{column}_high": result["mean"] + half}
    if logarithmic:
        ends = {name: np.exp(end) for name, end in ends.items()}
    ends = {name: end.clip(*within) for name, end in ends.items()}
    return result[list(by)].assign(**ends, n=result["count"])


def surviving(table: pd.DataFrame, column: str, *, by: Sequence[str]) -> pd.DataFrame:
    """As `over`, and how many trials were `lost`: have no value, because they diverged, say, or missed the target.

    Where some were, the middle is the median with those infinite, and there is no interval: a mean over the rest would
    reward losing trials. It is infinite where half of them or more were lost.
    """
    values = table[column].astype(float).where(np.isfinite(table[column].astype(float)))
    result = over(table, column, by=by)
    work = table[list(by)].assign(_value=values.fillna(np.inf), _lost=values.isna())
    groups = work.groupby(list(by), dropna=False, sort=False, observed=True)
    rest = groups.agg(median=("_value", "median"), lost=("_lost", "sum")).reset_index()
    whole = rest["lost"] == 0
    ends = {f"{column}{end}": result[f"{column}{end}"].where(whole) for end in ("_low", "_high")}
    return result.assign(**{column: result[column].where(whole, rest["median"])}, **ends, lost=rest["lost"])


def half_width(deviation: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half the t-interval of a mean; NaN where n < 2."""
    enough = n > 1
    safe = np.where(enough, n, 2)
    width = stats.t.ppf(0.5 + LEVEL / 2, safe - 1) * deviation / np.sqrt(safe)
    return np.where(enough, width, np.nan)


def times(trials: pd.DataFrame, column: str, *, by: Sequence[str]) -> pd.DataFrame:
    """Time (or steps) to target per group: `column` (median), `<column>_low`, `<column>_high`, `n`, `reached`.

    A miss is infinite and takes part. If all n trials reached, the interval is that of a log-normal's median: Student's
    t on logarithms. If some missed there is none: one over those that made it would reward missing. Trials that still
    run or have no target are left out.
    """
    ended = trials[(trials["status"] != "running") & trials["target_value"].notna()]
    values = ended.assign(**{column: ended[column].astype(float).fillna(np.inf)})
    result = over(values, column, by=by, logarithmic=True).rename(columns={"n": "reached"})
    groups = values.groupby(list(by), dropna=False, sort=False, observed=True)[column]
    rest = groups.agg(["median", "size"]).reset_index()
    complete = result["reached"] == rest["size"]
    low, high = (result[f"{column}_{end}"].where(complete) for end in ("low", "high"))
    ends = {column: rest["median"], f"{column}_low": low.clip(upper=rest["median"]), f"{column}_high": high.clip(lower=rest["median"])}
    return result.assign(**ends, n=rest["size"])
