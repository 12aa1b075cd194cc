"""DCT-AdamW: AdamW in a few cosines, chosen anew at every update, so that no singular vectors are needed.

Modoranu et al. 2025, arXiv 2505.17967; released code IST-DASLab/ISTA-DASLab-Optimizers 4c98e6e.

    Q = orthonormal cosine basis of the short side, DCT-II vectors as columns (m <= n: the short side is projected)
    G <- G + E;  every T updates: I = the r rows of Q^T G of largest l1 norm, m and v carried over to them
    R = (Q^T G)_I;  E = G - Q_I R;  u = AdamW(R);  W <- (1 - lr wd) W - lr Q_I u

Since all Q_I are columns of one basis, rotating the moments means: those of a cosine that stays are kept, those of a new one start at zero.
Memory: 2nr + r (indices, int32); the error E adds mn, or mn bytes and ceil(mn/256) scales. Q is a constant of m^2 numbers for each short
side, shared by all matrices, computed and not stored as state. Defaults: T 1 and rotation as released; learning rates belong to sizes.
Departures: the released optimizer keeps a single Q, so that matrices of unequal short sides fail, treats two shapes apart and leaves out
matrices by their size; here roles decide. Its v is |rotated v|, the same thing for a permutation.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from submissions import linalg, quantisation
from submissions.base import MatrixSubmission, Probes, State, require

BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class DctAdamw(MatrixSubmission):
    """Low-rank AdamW in selected columns of a fixed cosine basis."""

    lr: float = 1e-3
    """Peak learning rate."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    gap: int = 1
    """T: updates from one choice of cosines to the next."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    error_feedback: Literal["none", "full", "8bit"] = "none"
    """What is kept of the gradient outside the chosen cosines, to be added to the next one."""
    on_refresh: Literal["rotate", "keep", "reset"] = "rotate"
    """What becomes of the moments when the cosines change: carried over, left in place by mistake, or dropped."""
    dense_eps: float = 1e-8
    """Adam's epsilon for the parameters that the rule does not treat."""

    paper: ClassVar[str] = "Modoranu et al. 2025, arXiv 2505.17967"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = (
        "2*n*rank + rank + (m*n if error_feedback == 'full' else 0.25*m*n + ceil(m*n/256) if error_feedback == '8bit' else 0)"
    )
    decay: ClassVar[Literal["before"]] = "before"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")

    def init(self, W_bmn: Tensor) -> State:
        b, m, n = W_bmn.shape
        r = linalg.rank_of(W_bmn, self.rank)
        state = {"m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n), "index": W_bmn.new_zeros(b, r, dtype=torch.int32)}
        if self.error_feedback == "full":
            state["E"] = linalg.zeros(W_bmn, m, n)
        elif self.error_feedback == "8bit":
            state["E"] = W_bmn.new_zeros(b, m, n, dtype=torch.uint8)
            state["E_scale"] = W_bmn.new_zeros(b, math.ceil(m * n / BLOCK), dtype=torch.float32)
        return state

    def compensated(self, G_bmn: Tensor, state: State) -> Tensor:
        """G + E."""
        if self.error_feedback == "none":
            return G_bmn
        E_bmn = state["E"]
        return G_bmn + (E_bmn if self.error_feedback == "full" else quantisation.dequantise(E_bmn, state["E_scale"], True, G_bmn, BLOCK))

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        Q_mm = linalg.cosines(G_bmn.shape[-2], G_bmn.dtype, G_bmn.device)
        size_bm = (Q_mm.T @ self.compensated(G_bmn, state)).abs().sum(-1)
        new_br = size_bm.topk(self.rank).indices.sort().values.int()
        if self.on_refresh == "reset":
            state["m"].zero_()
            state["v"].zero_()
        elif self.on_refresh == "rotate":
            same_brr = (new_br[:, :, None] == state["index"][:, None, :]).to(state["m"].dtype)
            state["m"].copy_(same_brr @ state["m"])
            state["v"].copy_(same_brr @ state["v"])
        state["index"].copy_(new_br)

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        G_bmn = self.compensated(G_bmn, state)
        Q_mm = linalg.cosines(G_bmn.shape[-2], G_bmn.dtype, G_bmn.device)
        P_bmr = Q_mm[:, state["index"].long()].transpose(0, 1)
        R_brn = P_bmr.mT @ G_bmn
        probes = {"energy": R_brn.square().sum((-2, -1))[:, None] / G_bmn.square().sum((-2, -1)).clamp_min(1e-38)[:, None]}
        if self.error_feedback != "none":
            self.keep_error(G_bmn - P_bmr @ R_brn, state)
        eps = self.eps * math.sqrt(1 - self.betas[1] ** t)
        psi_brn = linalg.adam(R_brn, state["m"], state["v"], self.betas, eps)
        return P_bmr @ psi_brn.mul_(linalg.bias_correction(t, self.betas)), probes

    def keep_error(self, E_bmn: Tensor, state: State) -> None:
        if self.error_feedback == "full":
            state["E"].copy_(E_bmn)
        else:
            codes, scales = quantisation.quantise(E_bmn, True, BLOCK)
            state["E"].copy_(codes)
            state["E_scale"].copy_(scales)
