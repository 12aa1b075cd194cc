"""LOST: a low-rank product with a nonlinearity inside, plus a few whole input channels.

Li et al. 2025, arXiv 2508.02668, from the public text; its code was not available.

    at the start: U S V^T = W0;  B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T;  I = the k input channels of W0 - B A with the largest norm
    y = gamma B f(A x) + (1 - gamma) W_I x_I                           f an activation or the identity

B, A and W_I, the remainder's columns I, train; W0 is dropped. Memory: 2(r(m+n) + k out) and three step counters, k = ceil(share *
in); the model keeps k indices of 8 bytes. Defaults are ours, as the text that we had does not give them by size: gamma 0.5, 5 % of
the channels, SiLU; r 128 and the learning rate are those of `low_rank`. Traps: gamma weighs both parts down, so at gamma = 0.5 the
start is about half of W0; the SVD start is an advantage that LoRA lacks and `low_rank` has only with `init: svd`; with f the
product is no matrix and cannot be merged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import adapters, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import require


@dataclass(frozen=True, kw_only=True)
class Lost(AdapterSubmission):
    """Low-rank and channel-sparse training."""

    lr: float = 1.5e-3
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    gamma: float = 0.5
    """Weight of the low-rank part, in [0, 1]."""
    share: float = 0.05
    """Share of the input channels in W_I, in [0, 1]."""
    activation: Literal["silu", "relu", "gelu", "identity"] = "silu"
    """f."""

    paper: ClassVar[str] = "Li et al. 2025, arXiv 2508.02668"
    memory: ClassVar[str] = "2*(rank*(m + n) + ceil(share*columns)*rows) + 3"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "a weight in [0, 1]")
        require(0 <= self.share <= 1, "share", self.share, "a fraction in [0, 1]")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        return self.freeze_rest(adapters.replace(model, self.matrices, lambda linear, name: LowRankAndChannels(linear, self)))


class LowRankAndChannels(nn.Module):
    """y = gamma B f(A x) + (1 - gamma) W_I x_I + bias."""

    index: Tensor

    def __init__(self, linear: nn.Linear, rule: Lost) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.role, self.rule, self.bias = linear.role, rule, linear.bias
        self.lora_a = nn.Parameter(linear.weight.new_zeros(linalg.rank_of(linear.weight, rule.rank), inputs))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(outputs, rule.rank))
        self.channels = nn.Parameter(linear.weight.new_zeros(outputs, math.ceil(rule.share * inputs)))
        self.register_buffer("index", torch.zeros(self.channels.shape[1], dtype=torch.int64, device=linear.weight.device))
        if not linear.weight.is_meta:
            self.start_from(linear.weight)

    @torch.no_grad()
    def start_from(self, W_mn: Tensor) -> None:
        """Factors of the leading part, channels of the remainder."""
        adapters.fill_factors(self.lora_b, self.lora_a, W_mn)
        remainder_mn = W_mn - self.lora_b @ self.lora_a
        self.index.copy_(remainder_mn.norm(dim=0).topk(len(self.index)).indices.sort().values)
        self.channels.copy_(remainder_mn[:, self.index])

    def forward(self, x: Tensor) -> Tensor:
        inside = F.linear(x, self.lora_a)
        if self.rule.activation != "identity":
            inside = getattr(F, self.rule.activation)(inside)
        low = F.linear(inside, self.rule.gamma * self.lora_b)
        return low + F.linear(x[..., self.index], (1 - self.rule.gamma) * self.channels, self.bias)
