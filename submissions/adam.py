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
from submissions.dense import AdamSubmission


@dataclass(frozen=True, kw_only=True)
class Adam(AdamSubmission):
    """Adam on every parameter."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """L2 coefficient."""

    paper: ClassVar[str] = "Kingma and Ba 2014, arXiv 1412.6980"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 1"

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return [self.adam(dense.trainable(model), self.lr, seed, decay="coupled")]
