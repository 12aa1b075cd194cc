"""SoRA: LoRA with a gate on each rank, driven to exact zeros by a proximal step.

Ding et al. 2023, arXiv 2311.11696; released code TsinghuaC3I/SoRA c275ac2.

    y = W0 x + (alpha/r) B (g o A x) + bias          A r x n Kaiming-uniform, B m x r zero, g in R^r, W0 frozen
    after Adam's step:  g <- T(g) = sign(g) max(|g| - lambda, 0)

Memory: 2r(m+n+1) and Adam's three step counters. Departures of the released code from the paper, each a field: its operator shifts
g by lambda and then zeroes what is below lambda, so it kills |g| < 2 lambda (`threshold: released`); its lambda is not multiplied by the
learning rate, which is the default here as the published values are meant so (`by_rate: true` is the paper's proximal gradient).
Defaults: released (r 8, lambda 3e-4, lr 8e-4, weight decay 0.1, clip 0.1). g starts at one, where SoRA is LoRA. Traps: a gate at zero
has a gradient only through B A x, so it can come back; the ranks that stay closed at the end can be cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import adapters, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require


@dataclass(frozen=True, kw_only=True)
class Sora(AdapterSubmission):
    """Sparse low-rank adaptation."""

    lr: float = 8e-4
    """Peak learning rate."""
    clip: float | None = 0.1
    """Largest global norm of the gradient; None does not clip."""
    weight_decay: float = 0.1
    """Decoupled decay of what is trained, relative to the learning rate."""
    rest: Literal["train", "freeze"] = "freeze"
    """What becomes of embedding, head and norms."""
    rank: int = 8
    """r, up to the short side of the smallest matrix."""
    alpha: float = 16.0
    """Numerator of the product's scale."""
    sparsity: float = 3e-4
    """lambda: what every update takes off each gate's size."""
    by_rate: bool = False
    """Multiply lambda by the update's learning rate."""
    threshold: Literal["soft", "released"] = "soft"
    """The l1 norm's proximal operator, or the released one."""

    paper: ClassVar[str] = "Ding et al. 2023, arXiv 2311.11696"
    memory: ClassVar[str] = "2*rank*(m + n + 1) + 3"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.sparsity >= 0, "sparsity", self.sparsity, "zero or more")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = Gated(linear, rank=self.rank, scale=self.alpha / self.rank)
            adapters.fill_uniform(module.lora_a, linear.in_features**-0.5, seed, f"{name}.lora_a")
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        size = self.sparsity * (self.lr * self.lr_factor(training.t, training.steps) if self.by_rate else 1.0)
        for _, module in adapters.factored(training.model):
            assert isinstance(module, Gated)
            module.gate.copy_(shrunk(module.gate, size, self.threshold))


class Gated(adapters.LowRank):
    """y = x W^T + scale (g o x A^T) B^T + bias."""

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float) -> None:
        super().__init__(linear, rank=rank, scale=scale)
        self.gate = nn.Parameter(linear.weight.new_ones(rank))

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        low = F.linear(F.linear(x, self.lora_a) * (self.gate * self.scale), self.lora_b)
        return low + F.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def product(self) -> Tensor:
        """scale B diag(g) A in the arithmetic's dtype."""
        dtype = linalg.arithmetic(self.lora_a.dtype)
        return self.scale * ((self.lora_b.to(dtype) * self.gate.to(dtype)) @ self.lora_a.to(dtype))


def shrunk(g: Tensor, size: float, threshold: str) -> Tensor:
    """The gates nearer to zero by `size`; those that would pass it (soft), or come within `size` of it (released), are zero."""
    nearer = g.abs() - size
    return g.sign() * nearer.clamp_min(0.0) if threshold == "soft" else g.sign() * nearer * (nearer > size)
