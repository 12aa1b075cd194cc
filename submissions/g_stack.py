"""G_stack: train a shallow model first, then stack copies of its layers to the full depth and go on.

Du et al. 2024, arXiv 2405.15319 (NeurIPS 2024); written from the paper, no released code was read.

    layers 1..L/g are trained for the first part of the budget;  then layer i of the full model <- a copy of layer i mod L/g,
    embedding, norms and head stay;  AdamW starts anew, its learning rate rising again over `rewarm`

Memory: 2mn + 1, AdamW's at full depth; before the growth only L/g layers exist, so weights, gradients and state are smaller and steps
shorter. Defaults: g = 4, the paper's; AdamW with betas (0.9, 0.95) and decay 0.1; the growth after 0.1 of the budget (the paper: after
10 of 100 to 300 billion tokens). Traps: compare on a clock, steps before the growth are cheaper; the learning rate follows the
schedule of the full run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from submissions import dense
from submissions.base import Training, require
from submissions.dense import AdamSubmission


@dataclass(frozen=True, kw_only=True)
class GStack(AdamSubmission):
    """Depth growth by stacking, on AdamW."""

    lr: float = 1e-3
    """Peak learning rate."""
    growth: int = 4
    """g: the full depth over the first one; a divisor of the number of layers."""
    grow_at: float = 0.1
    """Part of the step budget that the shallow model gets."""
    rewarm: float = 0.02
    """Linear rise of the learning rate after the growth, as a fraction of the step budget."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the first and second moment, in [0, 1)."""
    weight_decay: float = 0.1
    """Decoupled decay, relative to the learning rate."""

    paper: ClassVar[str] = "Du et al. 2024, arXiv 2405.15319"
    kind: ClassVar[Literal["other"]] = "other"
    memory: ClassVar[str] = "2*m*n + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.growth >= 1, "growth", self.growth, "an integer of at least 1")
        require(0 < self.grow_at < 1, "grow_at", self.grow_at, "a fraction in (0, 1)")
        require(0 <= self.rewarm <= 1, "rewarm", self.rewarm, "a fraction in [0, 1]")

    def shallow_steps(self, steps: int) -> int:
        """Updates before the growth, at least one."""
        return max(1, round(self.grow_at * steps))

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        layers = layers_of(model)
        require(len(layers) % self.growth == 0, "growth", self.growth, f"a divisor of {len(layers)}, the number of layers")
        if not next(model.parameters()).is_meta:  # a prediction is about the full depth
            del layers[len(layers) // self.growth :]
        return model

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return [self.adam(dense.trainable(model), self.lr, seed)]

    def lr_factor(self, t: int, steps: int) -> float:
        since = t - self.shallow_steps(steps)
        again = min(1.0, since / max(1.0, self.rewarm * steps)) if since > 0 else 1.0
        return again * super().lr_factor(t, steps)

    def before_step(self, training: Training) -> None:
        if training.t == self.shallow_steps(training.steps) + 1:
            self.grow(training)

    def restore(self, training: Training) -> None:
        if training.t > self.shallow_steps(training.steps):
            self.grow(training)

    def grow(self, training: Training) -> None:
        """Stacks the layers g times and gives the optimizer a fresh start."""
        layers = layers_of(training.model)
        first = list(layers)
        for _ in range(self.growth - 1):
            layers.extend(copy.deepcopy(layer) for layer in first)
        training.optimizers = self.optimizers(training.model, training.seed)


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder layers.

    Raises:
        ValueError: the model has no `layers`.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"g_stack grows `model.layers`, a ModuleList; {type(model).__name__} has none: choose a workload with decoder layers"
        )
    return layers
