"""The learning rate of every group, which the runner owns: it is the peak times what the submission's `lr_factor` says."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

SET = "set_lr"
"""Key of a group for the rate that it was last given; like torch's `initial_lr` it goes into checkpoints."""


def assign(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Gives every group its rate for the coming update.

    Raises:
        ValueError: a group has no rate, or somebody else has changed one since the last update, which would be without effect.
    """
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            found, given = group["lr"], group.get(SET)
            where = f"group {number} of {type(optimizer).__name__}"
            if not isinstance(found, int | float | Tensor):
                raise ValueError(f"{where} has lr = {found!r}: expected a number, the peak of the learning rate")
            if given is not None and _changed(found, given):
                raise ValueError(
                    f"the learning rate of {where} is {float(found):g}, but {float(given):g} was set: override lr_factor; the runner owns"
                    " the learning rate (an lr_scheduler of torch has no effect; an optimizer that adapts its rate must keep it elsewhere)"
                )
            rate = group.setdefault("initial_lr", _own(found)) * factor
            group["lr"], group[SET] = rate, _own(rate)


def _own(rate: float | Tensor) -> float | Tensor:
    """A value that a scheduler, which fills tensors in place, does not reach."""
    return rate.clone() if isinstance(rate, Tensor) else rate


def _changed(found: float | Tensor, given: float | Tensor) -> bool:
    """Whether two rates differ; on another device than the CPU that is not asked, as the answer would have to be waited for."""
    apart = any(isinstance(rate, Tensor) and rate.device.type != "cpu" for rate in (found, given))
    return not apart and bool(found != given) and bool(found == found)
