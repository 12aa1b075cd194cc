"""SLTrain: a low-rank product plus a sparse matrix on a fixed random support.

Han et al. 2024, arXiv 2406.02214 (NeurIPS 2024); released code andyjm3/SLTrain 2335d62.

    W = (alpha/r) B A + S;  S has floor(delta m n) trained values on a uniformly random support, drawn once

A Kaiming, B zero, values U(-1/sqrt(n), 1/sqrt(n)). The dense W exists only inside the forward and the backward pass; neither keeps
it. Memory: 2(r(m+n) + floor(delta m n)) and three step counters. The support is part of the model: delta m n indices of 8 bytes
each. Defaults: the released scripts (lr 3e-3; 60M r 128, alpha 32, delta 0.03; 130M and 350M r 256, alpha 16; 1B r 512, alpha 8; 7B
r 1024, alpha 8, delta 0.05). Traps: the released scripts train 5 to 40 % longer than GaLore's; alpha/r differs between sizes; they
accept a dropout and ignore it (there is none here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import adapters, engine, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import require


@dataclass(frozen=True, kw_only=True)
class Sltrain(AdapterSubmission):
    """Sparse plus low-rank training."""

    lr: float = 3e-3
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 32.0
    """Numerator of the scale alpha/r."""
    delta: float = 0.03
    """Share of a matrix's entries in S, in [0, 1]."""

    paper: ClassVar[str] = "Han et al. 2024, arXiv 2406.02214"
    memory: ClassVar[str] = "2*(rank*(m + n) - ceil(-delta*(m*n))) + 3"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(0 <= self.delta <= 1, "delta", self.delta, "a fraction in [0, 1]")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        def make(linear: nn.Linear, name: str) -> nn.Module:
            return SparseLowRank(linear, self, seed, name)

        return self.freeze_rest(adapters.replace(model, self.matrices, make))


class SparseLowRank(nn.Module):
    """y = x ((alpha/r) B A + S)^T + bias."""

    index: Tensor

    def __init__(self, linear: nn.Linear, rule: Sltrain, seed: int, name: str) -> None:
        super().__init__()
        m, n = linear.weight.shape
        self.role, self.scale, self.bias = linear.role, rule.alpha / rule.rank, linear.bias
        self.lora_a = nn.Parameter(linear.weight.new_zeros(linalg.rank_of(linear.weight, rule.rank), n))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(m, rule.rank))
        self.values = nn.Parameter(linear.weight.new_zeros(int(rule.delta * (m * n))))
        self.register_buffer("index", torch.zeros(len(self.values), dtype=torch.int64, device=linear.weight.device))
        adapters.fill_uniform(self.lora_a, n**-0.5, seed, f"{name}.lora_a")
        adapters.fill_uniform(self.values, n**-0.5, seed, f"{name}.values")
        if not self.index.is_meta:
            drawn = torch.randperm(m * n, generator=linalg.generator(engine.seed_of(seed, f"{name}.index"), 0))
            self.index.copy_(drawn[: len(self.index)].sort().values)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self.lora_b, self.lora_a, self.values, self.index, self.scale)  # type: ignore[no-untyped-call]  # in torch
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def effective(self) -> Tensor:
        """The dense matrix."""
        return dense(self.lora_b, self.lora_a, self.values, self.index, self.scale)


def dense(B_mr: Tensor, A_rn: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
    """W_mn = scale B A + S."""
    W_mn = (scale * B_mr) @ A_rn
    W_mn.view(-1).index_add_(0, index, values)
    return W_mn


class _Product(torch.autograd.Function):
    """x W^T that keeps the factors for the backward pass instead of W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, B_mr: Tensor, A_rn: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, B_mr, A_rn, values, index)
        ctx.scale = scale
        return F.linear(x, dense(B_mr, A_rn, values, index, scale))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, B_mr, A_rn, values, index = ctx.saved_tensors
        (dy,) = outputs
        dW_mn = dy.flatten(0, -2).mT @ x.flatten(0, -2)
        dx = dy @ dense(B_mr, A_rn, values, index, ctx.scale) if ctx.needs_input_grad[0] else None
        return dx, ctx.scale * (dW_mn @ A_rn.mT), ctx.scale * (B_mr.mT @ dW_mn), dW_mn.view(-1)[index], None, None
