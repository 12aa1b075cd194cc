"""Learning-rate schedules as pure functions of the update's number.

Source: linear warm-up then cosine to a floor is the recipe of the GaLore family (10 % warm-up, floor 10 %). Their first
update has learning rate 0 (LambdaLR counts from 0); ours has lr / warm-up steps, so no update is wasted.
"""

from __future__ import annotations

import math


def factor(shape: str, t: int, horizon: float, *, warmup: float, final: float) -> float:
    """Learning rate of update t = 1, 2, ... over its peak.

    Args:
        shape: `cosine`, `linear` or `constant` after the warm-up.
        horizon: length of the schedule in updates; later updates stay at `final` (at 1 if constant).
        warmup: fraction of the horizon with a linear rise from 0.
        final: factor at the horizon.
    """
    rise = warmup * horizon
    if t <= rise:
        return t / rise
    if shape == "constant":
        return 1.0
    progress = min((t - rise) / max(horizon - rise, 1.0), 1.0)
    decay = 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress
    return final + (1 - final) * decay
