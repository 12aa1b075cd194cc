"""LISA: a few decoder layers train at a time, drawn anew every K updates; embedding, head and final norm always train.

Pan et al. 2024, arXiv 2403.17919; code read: OptimalScale/LMFlow, and its copy in pixeli99/OwLore e415973.

    every K updates: draw gamma of the L layers uniformly without replacement, freeze the others;  AdamW on what is not frozen

Memory: 2mn and a step counter for each matrix of an active layer, nothing for a frozen one: the share gamma/L on average.
Departure: the released callback only switches gradients off and never drops a state, so its memory grows to that of full AdamW and
a layer comes back to stale moments and step counts: that is `keep_state`. Defaults: gamma 2 (paper; the script has 1), K 20
(script). Traps: what is frozen when the optimizer is made must still be registered; a layer sees only a share gamma/L of the
updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from submissions import blocks, engine, linalg
from submissions.base import Training, require
from submissions.blocks import BlockSubmission
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class Lisa(BlockSubmission):
    """Layerwise importance sampled AdamW."""

    gamma: int = 2
    """Layers that train at a time."""
    gap: int = 20
    """K: updates from one draw to the next."""
    keep_state: bool = False
    """Keep the states of frozen layers, as the released code does."""

    paper: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    memory: ClassVar[str] = "(1 if keep_state else gamma/layers)*(2*m*n + 1)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma >= 1, "gamma", self.gamma, "an integer of at least 1")

    def always(self, model: nn.Module) -> list[Named]:
        return blocks.outside(model, blocks.layers(model))

    def selected(self, model: nn.Module, seed: int, period: int) -> list[Named]:
        layers = blocks.layers(model)
        require(self.gamma <= len(layers), "gamma", self.gamma, f"at most {len(layers)}, the layers of this model")
        drawn = torch.randperm(len(layers), generator=linalg.generator(engine.seed_of(seed, "layers"), period))
        return blocks.inside(model, [layers[number] for number in drawn[: self.gamma].tolist()])

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        if not self.keep_state:
            return super().optimizers(model, seed)
        # torch's Adam passes over parameters without gradient and so keeps what it has of them.
        layers = [blocks.inside(model, [prefix]) for prefix in blocks.layers(model)]
        found = [self.adam(members, self.lr, seed) for members in (self.always(model), *layers)]
        if any(isinstance(optimizer, engine.MatrixOptimizer) for optimizer in found):
            raise ValueError("keep_state = True: expected state_dtype to be the dtype of the weights; set it so, or drop keep_state")
        return found

    def switch(self, training: Training) -> None:
        if not self.keep_state:
            return super().switch(training)
        active = self.selected(training.model, training.seed, self.period(training.t))
        return blocks.train_only(training.model, [*self.always(training.model), *active])
