"""Layer and block selection: which parameters are trained at an update, and the optimizers that own them.

Frozen parameters have no gradient and no state: a switch of blocks replaces the optimizers of the last block by new ones. The selection
is a function of (seed, t), so a resumed trial finds it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from submissions.base import Training, require
from submissions.dense import AdamSubmission
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class BlockSubmission(AdamSubmission):
    """Adam on a few blocks at a time, and on what `always` names."""

    gap: int = 100
    """K: updates from one switch to the next."""

    kind: ClassVar[Literal["selection"]] = "selection"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")

    def period(self, t: int) -> int:
        """Number of the selection that update t belongs to, from 0."""
        return (t - 1) // self.gap

    def selected(self, model: nn.Module, seed: int, period: int) -> list[Named]:
        """The parameters of the blocks that train in a period."""
        raise NotImplementedError(f"{type(self).__name__} must define selected(model, seed, period)")

    def always(self, model: nn.Module) -> list[Named]:
        """The parameters that train at every update."""
        return []

    def own(self, active: Sequence[Named], seed: int) -> list[Optimizer]:
        """New optimizers of the selected parameters."""
        return [self.adam(active, self.lr, seed)]

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        train_only(model, [*self.always(model), *self.selected(model, seed, 0)])
        return model

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        always = self.always(model)
        return [*([self.adam(always, self.lr, seed)] if always else []), *self.own(self.selected(model, seed, 0), seed)]

    def before_step(self, training: Training) -> None:
        if training.t > 1 and self.period(training.t) != self.period(training.t - 1):
            self.switch(training)

    def restore(self, training: Training) -> None:
        if training.t:
            self.switch(training)

    def switch(self, training: Training) -> None:
        """Freezes the old blocks, drops their state and trains the new ones."""
        model, seed = training.model, training.seed
        always, active = self.always(model), self.selected(model, seed, self.period(training.t))
        train_only(model, [*always, *active])
        fresh = self.own(active, seed)
        for optimizer in fresh:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]  # the peak, from which each step sets its rate
        training.optimizers[bool(always) :] = fresh


def layers(model: nn.Module) -> list[str]:
    """Name prefixes of the decoder layers.

    Raises:
        ValueError: the model has no module list `layers`.
    """
    for name, module in model.named_modules():
        if name.split(".")[-1] == "layers" and isinstance(module, nn.ModuleList):
            return [f"{name}.{number}." for number in range(len(module))]
    raise ValueError("the model has no module list named `layers`: selecting layers needs one, as in LLaMA")


def inside(model: nn.Module, prefixes: Sequence[str]) -> list[Named]:
    """All parameters whose names start with one of the prefixes, in the model's order."""
    return [Named(name, parameter) for name, parameter in model.named_parameters() if name.startswith(tuple(prefixes))]


def outside(model: nn.Module, prefixes: Sequence[str]) -> list[Named]:
    """All other parameters."""
    return [Named(name, parameter) for name, parameter in model.named_parameters() if not name.startswith(tuple(prefixes))]


def train_only(model: nn.Module, active: Sequence[Named]) -> None:
    """Freezes everything but the active parameters and drops the gradients of the frozen."""
    wanted = {member.name for member in active}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
        if name not in wanted:
            parameter.grad = None
