"""Adam with one learning rate for the layers' matrices and another for everything else: the control for the GaLore family.

In GaLore's and Fira's runs the projected matrices move with lr * alpha = 2.5e-3 while embedding, head and norms move with lr = 0.01;
the published Adam baseline has a single rate. This baseline has both rates and full-rank states, so that what remains of
a gap is due to the projection. Memory: 2mn + 1 (a step counter). Decay is decoupled, before the step (torch's AdamW).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from submissions import dense
from submissions.base import MATRIX_ROLES, require
from submissions.dense import AdamSubmission


@dataclass(frozen=True, kw_only=True)
class AdamTwoLr(AdamSubmission):
    """Adam with two learning rates."""

    lr: float = 2.5e-3
    """Peak learning rate of the layers' matrices."""
    dense_lr: float = 1e-2
    """Peak learning rate of embedding, head and norms."""
    matrices: tuple[str, ...] = MATRIX_ROLES
    """Roles that move with `lr`."""

    paper: ClassVar[str] = "control; Kingma and Ba 2014, arXiv 1412.6980"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dense_lr > 0, "dense_lr", self.dense_lr, "a positive number")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        groups = zip(dense.split(model, self.matrices), (self.lr, self.dense_lr), strict=True)
        return [self.adam(members, lr, seed) for members, lr in groups if members]
