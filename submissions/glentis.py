"""Weight refactorisation and momentum reset: a factorised matrix whose factors are balanced again every C updates.

Glentis et al. 2025, arXiv 2505.22922; released code OptimAI-Lab/Memory_Efficient_Pretraining 9f803d4.

    W = (alpha/r) B A
    every C updates: U S V^T = B A;  B <- U sqrt(S), A <- sqrt(S) V^T;  Adam's moments and step count of the factors <- 0
    learning rate after a reset: from 0 back to the schedule in a few updates ("quick recovery")

The product, and so the function, does not change; its factors have equal Gram matrices B^T B = A A^T = S afterwards. Memory:
2r(m+n) and two step counters. Departures: the released code is wired for SLTrain only and takes an SVD of the m x n product; here
the factorisation goes by two QR of the factors and an r x r SVD. The recovery is counted in updates after each reset, where the
code rebuilds its scheduler. Defaults: r 128, alpha 32, lr 1.5e-3 and 10 updates of recovery of the released low-rank script; C is
not stated there and is 200, GaLore's gap. Trap: the initialisation of `low_rank` applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from submissions import adapters
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require


@dataclass(frozen=True, kw_only=True)
class Glentis(AdapterSubmission):
    """Low-rank factors with refactorisation and momentum reset."""

    lr: float = 1.5e-3
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 32.0
    """Numerator of the scale alpha/r."""
    gap: int = 200
    """C: updates from one refactorisation to the next."""
    refactor: bool = True
    """Balance the factors."""
    reset: bool = True
    """Zero Adam's moments and step count of the factors."""
    recovery: int = 10
    """Updates in which the learning rate comes back after a reset; 0 keeps the schedule."""

    paper: ClassVar[str] = "Glentis et al. 2025, arXiv 2505.22922"
    memory: ClassVar[str] = "2*rank*(m + n) + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")
        require(self.recovery >= 0, "recovery", self.recovery, "zero or more updates")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = adapters.LowRank(linear, rank=self.rank, scale=self.alpha / self.rank, keep=False)
            adapters.fill_uniform(module.lora_a, linear.in_features**-0.5, seed, f"{name}.lora_a")
            adapters.fill_uniform(module.lora_b, self.rank**-0.5, seed, f"{name}.lora_b")
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))

    def lr_factor(self, t: int, steps: int) -> float:
        turn, since = divmod(t - 1, self.gap)
        factor = super().lr_factor(t, steps)
        return factor * (since + 1) / self.recovery if self.reset and turn and since < self.recovery else factor

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        if training.t % self.gap:
            return
        if self.refactor:
            for _, module in adapters.factored(training.model):
                adapters.balance(module.lora_b, module.lora_a)
        if self.reset:
            adapters.forget(training.optimizers[0])
