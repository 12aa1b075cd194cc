"""Fira: GaLore's projected Adam step plus the rest of the gradient, scaled by what Adam did inside the subspace.

Chen et al. 2024, arXiv 2410.01623 (NeurIPS 2025); released code xichen-fy/Fira 5c28b13 (PyPI fira 1.0.2).

    every T updates: P = leading r left singular vectors of G        (m <= n: the short side is projected)
    R = P^T G;  psi = m / (sqrt(v) + eps) of Adam(R);  phi_j = ||psi_j|| / ||R_j||  for each column j of R
    S = phi (G - P R);  S <- S / (max(||S|| / ||S_prev||, gamma) / gamma)
    W <- W - lr sqrt(1-b2^t)/(1-b1^t) (alpha P psi + S);  then W <- W - lr wd W

Memory: 2nr + mr + 1 (random bases: and a seed). Defaults: the released C4 scripts. Departures of the released code from the
paper, each a field here, code first: alpha also multiplies P R inside S (`alpha_in_residual`), so with alpha = 0.25 three quarters
of the in-subspace gradient are applied as phi G too; the limiter acts before bias correction (`limiter_after_bias`), where psi of a
constant gradient first grows, so it binds on every early update; moments are kept when P changes (`on_refresh`). phi shrinks as
sqrt(r/m): a rank sweep also sweeps the residual's step (`residual_gain`).
Named variants: only scaling = `adam_term: false`; GaLore = `residual: none`; GaLore-add = `residual: raw`; matrix level = `factor: matrix`.
Shapes: b stacked matrices, m <= n, r rank; phi has one entry per long-axis index n, or one per matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from submissions import linalg
from submissions.base import Direction, MatrixSubmission, Probes, State, require

TINY = 1e-8  # the released code's guard of both quotients


@dataclass(frozen=True, kw_only=True)
class Fira(MatrixSubmission):
    """Full-rank training under a low-rank constraint."""

    lr: float = 1e-2
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 0.25
    """Scale of the projected Adam term."""
    gap: int | None = 200
    """T: updates from one subspace to the next; null keeps the first."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the subspace."""
    eps: float = 1e-6
    """Beside the raw sqrt(v)."""
    basis: Literal["svd", "coordinates", "orthogonal", "gaussian"] = "svd"
    """P: singular vectors, random coordinates (the proof's setting), random orthonormal, or N(0, 1/r) entries (APOLLO's)."""
    projector: linalg.Projector = "eigh"
    """How `svd` is found: of the Gram matrix, by a full SVD, or by one iteration from the last P (inexact)."""
    adam_term: bool = True
    """False is "only scaling": no projected Adam term, and S = phi G."""
    residual: Literal["scaled", "raw", "none"] = "scaled"
    """S = phi (G - P R), G - P R, or 0."""
    alpha_in_residual: bool = True
    """Released code: S = phi (G - alpha P R). False: the paper's S = phi (G - P R)."""
    factor: Literal["index", "matrix"] = "index"
    """phi for each long-axis index (the paper's column level), or one for the matrix."""
    limiter: Literal["norm_growth", "none", "shrink", "tensor", "clip"] = "norm_growth"
    """What holds ||S||: growth by at most gamma; nothing; a mean with the last norm; a constant; a ceiling."""
    gamma: float = 1.01
    """Largest growth of ||S|| from one update to the next (norm_growth)."""
    strength: float = 0.5
    """Weight of the new norm (shrink), the constant (tensor), or the ceiling (clip); the paper states none of them."""
    limiter_after_bias: bool = False
    """Limit the bias-corrected S instead of the raw one."""
    residual_gain: float = 1.0
    """Multiplies S: with sqrt(r_ref / r) a rank sweep keeps the residual's step."""
    on_refresh: Literal["keep", "reset", "rotate"] = "keep"
    """What becomes of the moments when P changes."""

    paper: ClassVar[str] = "Chen et al. 2024, arXiv 2410.01623"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "2*n*rank + m*rank + 1 + 2*(basis != 'svd')"

    @property
    def seeded(self) -> bool:
        return self.basis != "svd"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")
        require(self.gamma >= 1, "gamma", self.gamma, "a number of at least 1")
        require(self.strength > 0, "strength", self.strength, "a positive number")

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        state = {"P": linalg.zeros(W_bmn, m, r), "m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n)}
        return state | {"S_norm": linalg.zeros(W_bmn, 1, 1).flatten()}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        P_bmr = self.new_basis(G_bmn, state, t)
        if self.on_refresh == "reset":
            state["m"].zero_()
            state["v"].zero_()
        elif self.on_refresh == "rotate":
            linalg.rotate(state["m"], state["v"], state["P"], P_bmr)
        state["P"].copy_(P_bmr)

    def new_basis(self, G_bmn: Tensor, state: State, t: int) -> Tensor:
        """P_bmr for the coming T updates."""
        m = G_bmn.shape[-2]
        if self.basis == "svd":
            return linalg.leading_left(G_bmn, self.rank, self.projector, state["P"] if t > 1 else None)
        if self.basis == "coordinates":
            return linalg.random_coordinates(state["seed_b"], t, m, self.rank, G_bmn)
        if self.basis == "orthogonal":
            return linalg.random_orthonormal(state["seed_b"], t, m, self.rank, G_bmn)
        return linalg.gaussian(state["seed_b"], t, m, self.rank, G_bmn).div_(math.sqrt(self.rank))

    def direction(self, G_bmn: Tensor, state: State, t: int) -> tuple[Direction, Probes]:
        P_bmr = state["P"]
        R_brn = P_bmr.mT @ G_bmn
        psi_brn = linalg.adam(R_brn, state["m"], state["v"], self.betas, self.eps)
        eta = linalg.bias_correction(t, self.betas)
        if self.residual == "none":
            return Direction(product=(P_bmr, psi_brn.mul_(eta * self.alpha))), {}
        a = (self.alpha if self.alpha_in_residual else 1.0) if self.adam_term else 0.0
        phi_b1n, phi_b11 = self.scaling(psi_brn, R_brn)
        gain_b1n = phi_b1n * self.residual_gain if self.residual == "scaled" else torch.ones_like(phi_b1n)
        scale_b11 = self.limit(self.residual_norm(G_bmn, R_brn, P_bmr, gain_b1n, a), state, t, eta if self.limiter_after_bias else 1.0)
        # alpha P psi + scale gain (G - a P R), with the two products by P as one
        gain_b1n = gain_b1n * scale_b11 * eta
        U = Direction(scaled=(G_bmn, gain_b1n))
        if self.adam_term:
            U = U._replace(product=(P_bmr, psi_brn.mul_(eta * self.alpha).sub_(R_brn.mul_(a * gain_b1n))))
        return U, {"phi": phi_b1n.flatten(1), "phi_matrix": phi_b11.flatten(1), "limiter": scale_b11.flatten(1)}

    def scaling(self, psi_brn: Tensor, R_brn: Tensor) -> tuple[Tensor, Tensor]:
        """phi = ||psi|| / ||R|| as the update uses it (b1n, or b11 for `factor` = matrix), and that of the whole matrix."""
        psi_b1n, R_b1n = (linalg.column_energy(X_brn) for X_brn in (psi_brn, R_brn))
        phi_b11 = psi_b1n.sum(-1, keepdim=True).sqrt() / (R_b1n.sum(-1, keepdim=True).sqrt() + TINY)
        return phi_b11 if self.factor == "matrix" else psi_b1n.sqrt() / (R_b1n.sqrt() + TINY), phi_b11

    def residual_norm(self, G_bmn: Tensor, R_brn: Tensor, P_bmr: Tensor, gain_b1n: Tensor, a: float) -> Tensor:
        """||gain (G - a P R)||_b; without forming it if P is orthonormal and a < 1, where the difference of squares is exact enough."""
        if a == 1 or (a > 0 and self.basis == "gaussian"):
            energy_b1n = linalg.column_energy(torch.baddbmm(G_bmn, P_bmr, R_brn, alpha=-a))
        else:
            energy_b1n = linalg.column_energy(G_bmn) - (2 * a - a * a) * linalg.column_energy(R_brn)
        return (energy_b1n.clamp_(min=0) * gain_b1n.square()).sum((-2, -1)).sqrt()

    def limit(self, norm_b: Tensor, state: State, t: int, unit: float) -> Tensor:
        """Factor_b11 for S, whose norm is given; remembers the norm after it. `unit` converts norms to the scale that is limited."""
        norm_b = norm_b * unit
        before_b = state["S_norm"]
        if self.limiter == "tensor":
            factor_b = torch.full_like(norm_b, self.strength)
        elif self.limiter == "clip":
            factor_b = (self.strength / (norm_b + TINY)).clamp(max=1.0)
        elif t == 1 or self.limiter == "none":
            factor_b = torch.ones_like(norm_b)
        elif self.limiter == "shrink":
            factor_b = (self.strength * norm_b + (1 - self.strength) * before_b) / (norm_b + TINY)
        else:
            growth_b = norm_b / (before_b + TINY)
            factor_b = self.gamma / growth_b.clamp(min=self.gamma)
        state["S_norm"] = norm_b * factor_b
        return factor_b[:, None, None]
