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
from submissions.dense import AdamSubmission


@dataclass(frozen=True, kw_only=True)
class Adamw(AdamSubmission):
    """AdamW on every parameter."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled decay, relative to the learning rate."""
    decayed: Literal["all", "matrices"] = "all"
    """What decays: every parameter (torch), or only those with two axes."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2017, arXiv 1711.05101"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 1"

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        members = dense.trainable(model)
        decaying = [member for member in members if self.decayed == "all" or member.parameter.ndim >= 2]
        others = [member for member in members if self.decayed == "matrices" and member.parameter.ndim < 2]
        return [self.adam(group, self.lr, seed, decayed=group is decaying) for group in (decaying, others) if group]
