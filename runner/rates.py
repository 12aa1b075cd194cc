"""The learning rate of every group, which the runner owns: it is the peak times what the submission's `lr_factor` says."""

from __future__ import annotations

from collections.abc import Iterable

from torch.optim import Optimizer

SET = "set_lr"
"""Key of a group for the rate that it was last given; like torch's `initial_lr` it goes into checkpoints."""


def assign(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Gives every group its rate for the coming update.

    Raises:
        ValueError: somebody else has changed one since the last update, which would be without effect.
    """
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            found, given = group["lr"], group.get(SET)
            if given is not None and found is not given and found != given:
                raise ValueError(
                    f"the learning rate of group {number} of {type(optimizer).__name__} is {float(found):g}, but {float(given):g} was set:"
                    " override lr_factor; the runner owns the learning rate (an lr_scheduler of torch has no effect)"
                )
            group["lr"] = group[SET] = group.setdefault("initial_lr", found) * factor
