"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al. 2024, arXiv 2409.11321; released code nikhilvyas/SOAP; compared with pytorch_optimizer 4.1.0.

    every update:  R = QL^T G QR;  psi = Adam(R);  W <- W - lr QL psi QR^T;  then L <- b L + (1-b) G G^T,  H <- b H + (1-b) G^T G
    every f updates, by one power iteration:  QL <- qr(L QL),  QR <- qr(H QR), columns sorted by their estimated eigenvalues

Memory: 2mn + 2m^2 + 2n^2; a side longer than `max_side` is not rotated and costs nothing. Defaults: the paper's (lr 3e-3,
betas 0.95, f = 10). As in the released code the first update only founds the bases, so that no gradient is projected by itself, and
v follows the sorting but is not rotated. The first moment is kept in the rotated basis. Decay acts after the
step; the released code skips it, too, at the first update.
Shapes: b stacked matrices, m <= n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, require

SIDES = (("L", "QL", -2), ("H", "QR", -1))
"""Statistics, basis, and the axis of G that they belong to."""


@dataclass(frozen=True, kw_only=True)
class Soap(MatrixSubmission):
    """Shampoo's eigenbasis with Adam inside."""

    lr: float = 3e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.95, 0.95)
    """Adam's decay rates in the eigenbasis."""
    shampoo_beta: float | None = None
    """b: decay rate of the two covariances; null takes the second of `betas`."""
    eps: float = 1e-8
    """Beside the raw sqrt(v)."""
    frequency: int = 10
    """f: updates from one basis to the next."""
    max_side: int = 10_000
    """Longest side that gets a basis."""
    correct_bias: bool = True
    """Adam's bias correction."""

    paper: ClassVar[str] = "Vyas et al. 2024, arXiv 2409.11321"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n + 2*m**2*(m <= max_side) + 2*n**2*(n <= max_side)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.shampoo_beta is None or 0 <= self.shampoo_beta < 1, "shampoo_beta", self.shampoo_beta, "a number in [0, 1), or null")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.frequency >= 1, "frequency", self.frequency, "an integer of at least 1")
        require(self.max_side >= 1, "max_side", self.max_side, "an integer of at least 1")

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        state = {"m": linalg.zeros(W_bmn, m, n), "v": linalg.zeros(W_bmn, m, n)}
        for statistics, basis, axis in SIDES:
            side = W_bmn.shape[axis]
            if side <= self.max_side:
                state |= {statistics: linalg.zeros(W_bmn, side, side), basis: linalg.zeros(W_bmn, side, side)}
        return state

    def refreshes(self, t: int) -> bool:
        """At the first update, and after every f that moved the weights."""
        return t == 1 or (t > 2 and (t - 2) % self.frequency == 0)

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        for statistics, basis, axis in SIDES:
            if basis not in state:
                continue
            old = state[basis]
            if t == 1:
                # The factor acts by its rounding alone; results on record have it.
                old.copy_(linalg.eigenbasis((1 - self.b) * covariance(G_bmn, axis)))
                continue
            product = state[statistics] @ old
            order = (old * product).sum(-2).argsort(-1, descending=True)
            new = torch.linalg.qr(product.gather(-1, order.unsqueeze(-2).expand_as(product)))[0]
            turn = new.mT @ old
            state["m"].copy_(turn @ state["m"] if axis == -2 else state["m"] @ turn.mT)
            index = order.unsqueeze(-1 if axis == -2 else -2).expand_as(state["v"])
            state["v"].copy_(state["v"].gather(axis, index))
            old.copy_(new)

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        U_bmn = torch.zeros_like(G_bmn)
        if t > 1:
            psi_bmn = linalg.adam(rotated(G_bmn, state), state["m"], state["v"], self.betas, self.eps)
            unit = linalg.bias_correction(t - 1, self.betas) if self.correct_bias else 1.0
            U_bmn = rotated(psi_bmn.mul_(unit), state, back=True)
        for statistics, _, axis in SIDES:
            if statistics in state:
                state[statistics].lerp_(covariance(G_bmn, axis), 1 - self.b)
        return U_bmn, {}

    @property
    def b(self) -> float:
        """Decay rate of the two covariances."""
        return self.betas[1] if self.shampoo_beta is None else self.shampoo_beta


def covariance(G_bmn: Tensor, axis: int) -> Tensor:
    """G G^T for the rows' side, G^T G for the columns'."""
    return G_bmn @ G_bmn.mT if axis == -2 else G_bmn.mT @ G_bmn


def rotated(X_bmn: Tensor, state: State, *, back: bool = False) -> Tensor:
    """QL^T X QR, or QL X QR^T `back`; a side without a basis stays."""
    if "QL" in state:
        X_bmn = (state["QL"] if back else state["QL"].mT) @ X_bmn
    if "QR" in state:
        X_bmn = X_bmn @ (state["QR"].mT if back else state["QR"])
    return X_bmn
