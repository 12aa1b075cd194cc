"""GaLore with 8-bit moments: the projected Adam states in blocks of 256 bytes with one scale each.

Zhao et al. 2024, arXiv 2403.03507 (their "8-bit GaLore"); quantisation: Dettmers et al. 2022, arXiv 2110.02861.

    every T updates: P = leading r left singular vectors of G        (m <= n: the short side is projected)
    R = P^T G;  m, v from bytes;  u = Adam(R) with torch's eps;  m, v to bytes;  W <- W - lr alpha P u;  then W <- W - lr wd W

Memory: 2nr bytes + 2 ceil(nr/256) scales + mr (P). Defaults: as GaLore, with the eps 1e-8 of its GaLoreAdamW8bit, whose decay of
1e-2 is off here. Departures: the released class needs CUDA and keeps states below 4096 entries in fp32; here all are bytes, on any
device. Traps: bitsandbytes 0.50 silently misreads the positional arguments of the released class (it sets max_unorm = 100), so
numbers from there are not the paper's; a small v beside a large one in its block rounds to zero, where eps alone bounds the step.
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
class Galore8bit(MatrixSubmission):
    """Gradient low-rank projection with 8-bit Adam."""

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
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    projector: linalg.Projector = "eigh"
    """How the singular subspace is found: of the Gram matrix, by a full SVD, or by one iteration from the last subspace (inexact)."""

    paper: ClassVar[str] = "Zhao et al. 2024, arXiv 2403.03507; Dettmers et al. 2022, arXiv 2110.02861"
    kind: ClassVar[Literal["quantised"]] = "quantised"
    memory: ClassVar[str] = "0.5*n*rank + 2*ceil(n*rank/256) + m*rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")

    def init(self, W_bmn: Tensor) -> State:
        b, m, n = W_bmn.shape
        r = linalg.rank_of(W_bmn, self.rank)
        state = {"P": linalg.zeros(W_bmn, m, r)}
        for moment in "mv":
            state[moment] = W_bmn.new_zeros(b, r, n, dtype=torch.uint8)
            state[f"{moment}_scale"] = W_bmn.new_zeros(b, math.ceil(r * n / BLOCK), dtype=torch.float32)
        return state

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        state["P"].copy_(linalg.leading_left(G_bmn, self.rank, self.projector, state["P"] if t > 1 else None))

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        P_bmr = state["P"]
        R_brn = P_bmr.mT @ G_bmn
        m_brn = quantisation.dequantise(state["m"], state["m_scale"], True, R_brn, BLOCK)
        v_brn = quantisation.dequantise(state["v"], state["v_scale"], False, R_brn, BLOCK)
        eps = self.eps * math.sqrt(1 - self.betas[1] ** t)
        psi_brn = linalg.adam(R_brn, m_brn, v_brn, self.betas, eps)
        for key, moment in (("m", m_brn), ("v", v_brn)):
            codes, scales = quantisation.quantise(moment, key == "m", BLOCK)
            state[key].copy_(codes)
            state[f"{key}_scale"].copy_(scales)
        return P_bmr @ psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas)), {}
