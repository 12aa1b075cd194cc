"""AdamW: Adam with weight decay decoupled from the gradient, the usual baseline of today's language models.

Loshchilov and Hutter 2017, arXiv 1711.05101. W <- W - lr wd W; m <- b1 m + (1-b1) G; v <- b2 v + (1-b2) G^2;
W <- W - lr m_hat / (sqrt(v_hat) + eps). Memory: 2mn + 1 (torch's step counter). Run by torch's fused kernel; defaults are
`torch.optim.AdamW`'s, whose decay acts before the step and on every parameter; language-model recipes exempt norms and biases
(`decayed: matrices`). Trap: `transformers`' former AdamW, on which the GaLore family is built, decays after the step and has
eps elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from submissions import dense
from submissions.base import StateDtype, Submission, named_roles, require
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class Adamw(Submission):
    """AdamW on every parameter."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.01
    """Decoupled decay, relative to the learning rate."""
    decayed: Literal["all", "matrices"] = "all"
    """What decays: every parameter (torch), or only those with two axes."""
    state_dtype: StateDtype = "fp32"
    """Storage of m and v between steps."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2017, arXiv 1711.05101"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        members = [Named(name, parameter) for name, _, parameter in named_roles(model)]
        decaying = [member for member in members if self.decayed == "all" or member.parameter.ndim >= 2]
        others = [member for member in members if self.decayed == "matrices" and member.parameter.ndim < 2]
        return [
            dense.adam(
                group,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=weight_decay,
                decay="before",
                state_dtype=self.state_dtype,
                seed=seed,
            )
            for group, weight_decay in ((decaying, self.weight_decay), (others, 0.0))
            if group
        ]
