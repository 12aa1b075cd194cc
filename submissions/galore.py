"""GaLore: Adam on the gradient's projection to its leading singular subspace.

Zhao et al. 2024, arXiv 2403.03507; released code jiaweizzhao/GaLore 2cc66f8 (PyPI galore-torch 1.0).

    every T updates: P = leading r left singular vectors of G        (m <= n: the short side is projected)
    R = P^T G;  psi = Adam(R);  W <- W - lr alpha P psi(R);  then W <- W - lr wd W

Memory: 2nr (moments) + mr (P), counting P as the code stores it. Defaults: the released C4 scripts (lr 0.01, alpha 0.25, T 200).
Traps: alpha scales only the projected update, so everything else moves 1/alpha times faster; moments are neither reset nor rotated
when P changes (`on_refresh` = keep), although the new basis gives their entries another meaning; at r = m this is Adam in a rotated
basis, not Adam. The released code clips r to m silently; here that is an error.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from submissions import linalg
from submissions.base import Direction, MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Galore(MatrixSubmission):
    """Gradient low-rank projection."""

    lr: float = 1e-2
    """Peak learning rate (the projected matrices see lr * alpha)."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 0.25
    """Scale of the projected update."""
    gap: int | None = 200
    """T: updates from one subspace to the next; null keeps the first."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the subspace."""
    eps: float = 1e-6
    """Beside the raw sqrt(v)."""
    projector: linalg.Projector = "eigh"
    """How the singular subspace is found: of the Gram matrix, by a full SVD, or by one iteration from the last subspace (inexact)."""
    on_refresh: Literal["keep", "reset", "rotate"] = "keep"
    """What becomes of the moments when P changes."""

    paper: ClassVar[str] = "Zhao et al. 2024, arXiv 2403.03507"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "2*n*rank + m*rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        return {"P": linalg.zeros(W_bmn, m, r), "m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n)}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        P_bmr = linalg.leading_left(G_bmn, self.rank, self.projector, state["P"] if t > 1 else None)
        if self.on_refresh == "reset":
            state["m"].zero_()
            state["v"].zero_()
        elif self.on_refresh == "rotate":
            linalg.rotate(state["m"], state["v"], state["P"], P_bmr)
        state["P"].copy_(P_bmr)

    def direction(self, G_bmn: Tensor, state: State, t: int) -> tuple[Direction, Probes]:
        P_bmr = state["P"]
        psi_brn = linalg.adam(P_bmr.mT @ G_bmn, state["m"], state["v"], self.betas, self.eps)
        return Direction(product=(P_bmr, psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas)))), {}
