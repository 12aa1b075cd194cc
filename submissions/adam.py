"""Adam, and AdamW's plain ancestor: L2 decay, if any, is added to the gradient.

Kingma and Ba 2014, arXiv 1412.6980. m <- b1 m + (1-b1) G; v <- b2 v + (1-b2) G^2; W <- W - lr m_hat / (sqrt(v_hat) + eps).
Memory: 2mn + 1. This is the "full-rank" arm of the GaLore and Fira papers (`torch.optim.Adam`, eps 1e-8, no decay, one learning rate for
every parameter), run by torch's fused kernel. Trap: with state in bf16 and beta2 = 0.999 the second moment never decays
(0.999 v rounds back to v), which is what the published pure-bf16 runs did; `state_dtype` makes it a choice.
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
class Adam(Submission):
    """Adam on every parameter."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """L2 coefficient."""
    state_dtype: StateDtype = "fp32"
    """Storage of m and v between steps."""

    paper: ClassVar[str] = "Kingma and Ba 2014, arXiv 1412.6980"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        members = [Named(name, parameter) for name, _, parameter in named_roles(model)]
        return [
            dense.adam(
                members,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                decay="coupled",
                state_dtype=self.state_dtype,
                seed=seed,
            )
        ]
