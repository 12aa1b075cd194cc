"""NAdamW: AdamW with Nesterov's look-ahead, AlgoPerf's strongest baseline.

Dozat 2016 (ICLR workshop, OpenReview OM0jvwB8jIp57ZJjtNEZ); Dahl et al. 2023, arXiv 2306.07179.

    m <- b1 m + (1-b1) G;  v <- b2 v + (1-b2) G^2;  W <- W - lr wd W
    constant b1 (AlgoPerf):    U = (b1 m + (1-b1) G) / (1 - b1^t) / (sqrt(v_hat) + eps)
    `momentum_decay` psi:      mu_t = b1 (1 - 0.96^(t psi) / 2);  M_t = mu_1 ... mu_t
                               U = (mu_{t+1} m / (1 - M_{t+1}) + (1-mu_t) G / (1 - M_t)) / (sqrt(v_hat) + eps)

Memory: 2mn (+ 1, the product of mu, with `momentum_decay`). Defaults: AlgoPerf's form with torch's betas and decay. Trap:
`torch.optim.NAdam` is Dozat's rule with the momentum schedule (psi 0.004), which halves b1 at first; AlgoPerf's is not.
Shapes: b stacked matrices as they are stored (out x in), or one vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Nadamw(MatrixSubmission):
    """Adam with Nesterov momentum and decoupled decay."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.01
    """Decoupled decay, relative to the learning rate."""
    momentum_decay: float | None = None
    """psi of Dozat's momentum schedule (torch: 0.004); null keeps b1 constant."""
    matrices: tuple[str, ...] = (*MATRIX_ROLES, "embed", "head", "norm")
    """Roles that NAdamW treats, vectors included; Adam has the rest."""

    paper: ClassVar[str] = "Dozat 2016; Dahl et al. 2023, arXiv 2306.07179"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + (momentum_decay is not None)"
    decay: ClassVar[Literal["before"]] = "before"
    elementwise: ClassVar[bool] = True
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.momentum_decay is None or self.momentum_decay > 0, "momentum_decay", self.momentum_decay, "a positive number or null")

    def init(self, W_bmn: Tensor) -> State:
        dtype = linalg.arithmetic(W_bmn.dtype)
        state = {key: W_bmn.new_zeros(W_bmn.shape, dtype=dtype) for key in "mv"}
        return state if self.momentum_decay is None else state | {"mu_product": W_bmn.new_ones(len(W_bmn), dtype=dtype)}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        m, v = state["m"], state["v"]
        m.lerp_(G_bmn, 1 - self.betas[0])
        v.mul_(self.betas[1]).addcmul_(G_bmn, G_bmn, value=1 - self.betas[1])
        denominator = v.sqrt().div_(math.sqrt(1 - self.betas[1] ** t)).add_(self.eps)
        if self.momentum_decay is None:
            return G_bmn.lerp_(m, self.betas[0]).div_(denominator).div_(1 - self.betas[0] ** t), {}
        now, ahead = self.mu(t), self.mu(t + 1)
        product = state["mu_product"].mul_(now).view(-1, *[1] * (m.ndim - 1))
        mixed = G_bmn.mul_((1 - now) / (1 - product)).addcmul_(m, ahead / (1 - product * ahead))
        return mixed.div_(denominator), {}

    def mu(self, t: int) -> float:
        """Dozat's momentum of update t."""
        assert self.momentum_decay is not None
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, t * self.momentum_decay))

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return dense.beside(self, model, seed, vectors=True)
