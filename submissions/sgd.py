"""Stochastic gradient descent with optional momentum: the lower bound of memory.

Robbins and Monro 1951; Polyak 1964; Sutskever et al. 2013. M <- mu M + G; W <- W - lr M, or W - lr (G + mu M) with Nesterov's
look-ahead. Memory: mn with momentum, 0 without. Executed by `torch.optim.SGD`. Fira's rebuttal shows plain SGD as the lower line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from submissions.base import Submission, named_roles, require


@dataclass(frozen=True, kw_only=True)
class Sgd(Submission):
    """SGD on every parameter."""

    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """mu in [0, 1); 0 keeps no state."""
    nesterov: bool = False
    """Look ahead along the momentum."""
    weight_decay: float = 0.0
    """L2 coefficient."""
    clip: float | None = 1.0
    """Largest global norm of the gradient: without Adam's normalisation early gradients would diverge."""

    paper: ClassVar[str] = "Robbins and Monro 1951; Polyak 1964; Sutskever et al. 2013"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "m*n if momentum else 0"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(not self.nesterov or self.momentum > 0, "nesterov", self.nesterov, "false, or a positive momentum")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        parameters = [parameter for _, _, parameter in named_roles(model)]
        return [
            torch.optim.SGD(
                parameters,
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                weight_decay=self.weight_decay,
                fused=True,
            )
        ]
