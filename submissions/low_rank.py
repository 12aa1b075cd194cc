"""Low rank: the matrix is a product from the start, W = (alpha/r) B A.

Kamalakara et al. 2022, arXiv 2209.13569; the "Low-Rank" row of GaLore's tables (arXiv 2403.03507). Form and defaults are those of
OptimAI-Lab/Memory_Efficient_Pretraining 9f803d4: both factors Kaiming-uniform (a = sqrt 5), r 128, alpha 32, lr 1.5e-3.

Memory: 2r(m+n) and Adam's two step counters; the matrix shrinks from mn to r(m+n). Traps: with both factors Kaiming the product
starts with entries of std alpha/(3 r sqrt(n)), far below a dense layer's; `init: svd` starts from the best rank-r approximation of
the dense initial matrix instead, split evenly, with scale 1 (Khodak et al. 2021, arXiv 2105.01029) - which confounds comparisons
with methods that use one and not the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from submissions import adapters
from submissions.adapters import AdapterSubmission
from submissions.base import require


@dataclass(frozen=True, kw_only=True)
class LowRankFactors(AdapterSubmission):
    """Training of factorised matrices."""

    lr: float = 1.5e-3
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 32.0
    """Numerator of the scale alpha/r (init = kaiming)."""
    init: Literal["kaiming", "svd"] = "kaiming"
    """Random factors, or those of the dense initial matrix."""

    paper: ClassVar[str] = "Kamalakara et al. 2022, arXiv 2209.13569"
    memory: ClassVar[str] = "2*rank*(m + n) + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        scale = self.alpha / self.rank if self.init == "kaiming" else 1.0

        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = adapters.LowRank(linear, rank=self.rank, scale=scale, keep=False)
            if self.init == "svd":
                adapters.fill_factors(module.lora_b, module.lora_a, linear.weight)
            else:
                adapters.fill_uniform(module.lora_a, linear.in_features**-0.5, seed, f"{name}.lora_a")
                adapters.fill_uniform(module.lora_b, self.rank**-0.5, seed, f"{name}.lora_b")
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))
