"""APOLLO: SGD-like steps whose channel-wise learning rates come from Adam in a random subspace.

Zhu et al. 2024, arXiv 2412.05270; released package apollo-torch 1.0.3 (CC-BY-NC: read for the rule, not for code).

    every T updates: N with entries N(0, 1/r)                        (m <= n: the short side is projected)
    R = N^T G;  psi = m / (sqrt(v) + eps) of Adam(R);  phi_j = ||psi_j|| / ||R_j||  for each column j of R
    S = phi G, limited: S <- S / (max(||S|| / ||S_prev||, gamma) / gamma)
    W <- W - lr sqrt(1-b2^t)/(1-b1^t) sqrt(scale) S;  then W <- W - lr wd W

Memory: 2nr + 1 + 2 (a seed) as the paper counts, with `store: false`; the released code also keeps N, the same steps for mr more elements.
Defaults: the released C4 scripts (lr 0.01, T 200, scale 1, r = a quarter of the hidden size). Traps: `scale` enters as its root, after the
limiter except in APOLLO-Mini's 60M and 130M scripts (`scale_front`); Gaussian N keeps the energy, so phi shrinks as sqrt(r/m), which only
scale makes up for; moments are kept when N changes. The package draws N by the order of its parameters; here it follows from their names.
Shapes: b stacked matrices, m <= n, r rank; phi has one entry per long-axis index n, or one per matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from submissions import linalg
from submissions.base import Direction, MatrixSubmission, Probes, State, require

TINY = 1e-8  # the released code's guard of the quotient


@dataclass(frozen=True, kw_only=True)
class Apollo(MatrixSubmission):
    """Approximated gradient scaling."""

    lr: float = 1e-2
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    scale: float = 1.0
    """The update is multiplied by its square root."""
    scale_front: bool = False
    """Apply sqrt(scale) before the limiter instead of after it."""
    gap: int | None = 200
    """T: updates from one subspace to the next; null keeps the first."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the subspace."""
    eps: float = 1e-6
    """Beside the raw sqrt(v)."""
    factor: Literal["channel", "tensor"] = "channel"
    """phi for each long-axis index, or one for the matrix."""
    basis: Literal["gaussian", "svd"] = "gaussian"
    """Random N, or GaLore's singular subspace (the paper's "APOLLO w. SVD"), which is always stored."""
    store: bool = True
    """Keep N between updates, as the released code does; false draws it again from its seed at every update."""
    limiter: Literal["norm_growth", "none"] = "norm_growth"
    """What holds ||S||."""
    gamma: float = 1.01
    """Largest growth of ||S|| from one update to the next."""

    paper: ClassVar[str] = "Zhu et al. 2024, arXiv 2412.05270"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "2*n*rank + 1 + 2*(basis == 'gaussian') + m*rank*(store or basis == 'svd')"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.scale > 0, "scale", self.scale, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")
        require(self.gamma >= 1, "gamma", self.gamma, "a number of at least 1")

    @property
    def seeded(self) -> bool:
        return self.basis == "gaussian"

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        state = {"m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n), "S_norm": linalg.zeros(W_bmn, 1, 1).flatten()}
        return state | ({"N": linalg.zeros(W_bmn, m, r)} if self.store or not self.seeded else {})

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        if not self.seeded:
            state["N"].copy_(linalg.leading_left(G_bmn, self.rank))
        elif self.store:
            state["N"].copy_(self.draw(G_bmn, state, t))

    def draw(self, G_bmn: Tensor, state: State, t: int) -> Tensor:
        """N_bmr of update t: a function of the matrix's seed and of the update that began the period."""
        began = 1 if self.gap is None else t - (t - 1) % self.gap
        N_bmr = linalg.gaussian(state["seed_b"], began, G_bmn.shape[-2], self.rank, G_bmn)
        return N_bmr / math.sqrt(self.rank)

    def direction(self, G_bmn: Tensor, state: State, t: int) -> tuple[Direction, Probes]:
        N_bmr = state["N"] if "N" in state else self.draw(G_bmn, state, t)
        R_brn = N_bmr.mT @ G_bmn
        psi_brn = linalg.adam(R_brn, state["m"], state["v"], self.betas, self.eps)
        phi_b1n = self.scaling(psi_brn, R_brn)
        gain_b1n = phi_b1n * self.scale**0.5 if self.scale_front else phi_b1n
        probes = {"phi": phi_b1n.flatten(1)}
        if self.limiter == "norm_growth":
            norm_b11 = (linalg.column_energy(G_bmn) * gain_b1n.square()).sum((-2, -1), keepdim=True).sqrt()  # ||S||, S not formed
            limit_b11 = linalg.norm_growth(norm_b11, state["S_norm"], self.gamma, t)
            gain_b1n = gain_b1n * limit_b11
            probes["limiter"] = limit_b11.flatten(1)
        step = linalg.bias_correction(t, self.betas) * (1.0 if self.scale_front else self.scale**0.5)
        return Direction(scaled=(G_bmn, gain_b1n * step)), probes

    def scaling(self, psi_brn: Tensor, R_brn: Tensor) -> Tensor:
        """phi = ||psi|| / ||R||, of each column (b1n) or of the matrix (b11)."""
        psi_b1n, R_b1n = linalg.column_energy(psi_brn), linalg.column_energy(R_brn)
        if self.factor == "tensor":
            psi_b1n, R_b1n = psi_b1n.sum(-1, keepdim=True), R_b1n.sum(-1, keepdim=True)
        return psi_b1n.sqrt() / (R_b1n.sqrt() + TINY)
