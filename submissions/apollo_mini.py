"""APOLLO-Mini: one learning rate per matrix, from Adam on a single random combination of the gradient's rows.

Zhu et al. 2024, arXiv 2412.05270; released package apollo-torch 1.0.3 (CC-BY-NC: read for the rule, not for code).

    every T updates: w with entries N(0, 1)                          (m <= n: the short side is projected)
    R = w^T G  (1 x n);  psi = m / (sqrt(v) + eps) of Adam(R);  phi = ||psi|| / ||R||
    S = sqrt(scale) phi G, limited: S <- S / (max(||S|| / ||S_prev||, gamma) / gamma)
    W <- W - lr sqrt(1-b2^t)/(1-b1^t) S;  then W <- W - lr wd W

Memory: 2n + 1 + 2 (a seed); the package also keeps w (m more). Defaults: the released C4 scripts; sqrt(scale) acts before the limiter for
60M and 130M, after it (`scale_front: false`) for 350M and above, where only the first update differs as long as the limiter binds.
Traps: scale = 128 means a factor of 11.3; it stands for sqrt(hidden / r), so a smaller model needs a smaller one.
Shapes: b stacked matrices, m <= n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, require

TINY = 1e-8  # the released code's guard of the quotient


@dataclass(frozen=True, kw_only=True)
class ApolloMini(MatrixSubmission):
    """Tensor-wise gradient scaling at the memory of SGD."""

    lr: float = 1e-2
    """Peak learning rate."""
    scale: float = 128.0
    """The update is multiplied by its square root."""
    scale_front: bool = True
    """Apply sqrt(scale) before the limiter instead of after it."""
    gap: int | None = 200
    """T: updates from one projection to the next; null keeps the first."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates on the projected gradient."""
    eps: float = 1e-6
    """Beside the raw sqrt(v)."""
    gamma: float | None = 1.01
    """Largest growth of ||S|| from one update to the next; null does not limit it."""

    paper: ClassVar[str] = "Zhu et al. 2024, arXiv 2412.05270"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "2*n + 1 + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale > 0, "scale", self.scale, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")
        require(self.gamma is None or self.gamma >= 1, "gamma", self.gamma, "a number of at least 1, or null")

    @property
    def seeded(self) -> bool:
        return True

    def init(self, W_bmn: Tensor) -> State:
        n = W_bmn.shape[-1]
        return {"m": linalg.zeros(W_bmn, 1, n), "v": linalg.zeros(W_bmn, 1, n), "S_norm": linalg.zeros(W_bmn, 1, 1).flatten()}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        began = 1 if self.gap is None else t - (t - 1) % self.gap
        w_bm1 = linalg.gaussian(state["seed_b"], began, G_bmn.shape[-2], 1, G_bmn)
        R_b1n = w_bm1.mT @ G_bmn
        psi_b1n = linalg.adam(R_b1n, state["m"], state["v"], self.betas, self.eps)
        phi_b11 = psi_b1n.norm(dim=-1, keepdim=True) / (R_b1n.norm(dim=-1, keepdim=True) + TINY)
        front, back = (self.scale**0.5, 1.0) if self.scale_front else (1.0, self.scale**0.5)
        S_bmn = G_bmn.mul_(phi_b11 * front)
        step = linalg.bias_correction(t, self.betas) * back
        probes = {"phi": phi_b11.flatten(1)}
        if self.gamma is None:
            return S_bmn.mul_(step), probes
        limit_b11 = linalg.norm_growth(S_bmn, state["S_norm"], self.gamma, t)
        return S_bmn.mul_(limit_b11 * step), probes | {"limiter": limit_b11.flatten(1)}
