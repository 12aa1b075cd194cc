"""Loss spikes, defined and counted.

A spike begins where the training loss lies above the median of the `WINDOW` values before it by more than `DEVIATIONS` robust standard
deviations of such differences (1.4826 times their median absolute deviation, over the whole run), and it lasts until the loss is
back below; what lies above without a break counts once. The first `WINDOW` values have no median before them and cannot spike.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

WINDOW = 10
DEVIATIONS = 5.0
TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def excess(losses: NDArray[np.float64], *, window: int = WINDOW) -> NDArray[np.float64]:
    """Each value minus the median of the `window` before it, in robust standard deviations; NaN where there is no such median."""
    found = np.full(len(losses), np.nan)
    if len(losses) <= window:
        return found
    before = np.median(np.lib.stride_tricks.sliding_window_view(losses, window)[:-1], axis=1)
    above = losses[window:] - before
    finite = above[np.isfinite(above)]
    deviation = TO_DEVIATION * np.median(np.abs(finite - np.median(finite))) if len(finite) else np.nan
    found[window:] = np.where(np.isfinite(above), above / max(deviation, np.finfo(float).tiny), np.inf)
    return found


def spikes(losses: NDArray[np.float64], *, window: int = WINDOW, deviations: float = DEVIATIONS) -> NDArray[np.int64]:
    """Places where a spike begins."""
    high = np.nan_to_num(excess(losses, window=window), nan=0.0, posinf=np.inf) > deviations
    return np.flatnonzero(high & ~np.concatenate([[False], high[:-1]]))


def counted(trials: pd.DataFrame, points: pd.DataFrame, *, name: str = "train_loss") -> pd.DataFrame:
    """`trials` with columns `spikes` (their number) and `worst` (largest excess in robust standard deviations)."""
    chosen = points[(points["name"] == name) & points["trial"].isin(trials["trial"])].sort_values("step", kind="stable")
    counts, worst = {}, {}
    for trial, rows in chosen.groupby("trial", observed=True):
        losses = rows["value"].to_numpy(float)
        counts[str(trial)] = len(spikes(losses))
        above = excess(losses)
        worst[str(trial)] = float(np.nanmax(above)) if np.isfinite(above).any() else np.nan
    keys = trials["trial"].astype(str)
    return trials.assign(spikes=keys.map(counts).astype(float), worst=keys.map(worst).astype(float))
