"""LoRA: the frozen matrix plus a trained low-rank product.

Hu et al. 2021, arXiv 2106.09685.

    y = W0 x + (alpha/r) B A x       A r x n Kaiming-uniform (a = sqrt 5), B m x r zero, W0 frozen

Memory: 2r(m+n) and Adam's two step counters; the model itself grows by r(m+n). Defaults: r and alpha = 32 of GaLore's pre-training
baseline (arXiv 2403.03507), whose embedding, head and norms train in full; `rest: freeze` is the fine-tuning form (LLM-Adapters: r
32, alpha 64, dropout 0.05, lr 3e-4). Traps: from a random W0 the product's rank is all that pre-training can change; alpha/r falls
with the rank, so a rank sweep also sweeps the step (`scaling: rslora` uses alpha/sqrt(r), Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from submissions import adapters
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require


@dataclass(frozen=True, kw_only=True)
class Lora(AdapterSubmission):
    """Low-rank adaptation."""

    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 32.0
    """Numerator of the product's scale."""
    scaling: Literal["lora", "rslora"] = "lora"
    """Scale alpha/r, or alpha/sqrt(r)."""
    dropout: float = 0.0
    """Probability that an input of the factors is dropped in training."""

    paper: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    memory: ClassVar[str] = "2*rank*(m + n) + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        scale = self.alpha / (self.rank if self.scaling == "lora" else self.rank**0.5)

        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = adapters.LowRank(linear, rank=self.rank, scale=scale, dropout=self.dropout)
            adapters.fill_uniform(module.lora_a, linear.in_features**-0.5, seed, f"{name}.lora_a")
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))

    def before_step(self, training: Training) -> None:
        if self.dropout:
            adapters.seed_dropout(training)
