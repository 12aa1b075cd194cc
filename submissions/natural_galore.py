"""Natural GaLore: GaLore whose projected gradient is preconditioned by the recent projected gradients.

Das 2024, arXiv 2410.16029; released code selfsupervised-ai/Natural-GaLore e23336d.

    every T updates: P = leading r left singular vectors of G        (m <= n: the short side is projected)
    R = P^T G;  H = the last s of vec R, this one included, as columns;  F = H H^T, the empirical Fisher matrix times s
    g = (lambda I + F)^-1 vec R;  W <- W - lr alpha P Adam(g);  then W <- W - lr wd W

By Woodbury's identity only an s x s system is solved; since vec R is a column of H, g = H c with (lambda I + H^T H) c = e_now.
Memory: 2nr + mr + s nr: the history alone exceeds Adam's 2mn when s r > 2m, so "no additional memory" is false. Defaults: the released
scripts (as GaLore, s 20, lambda 1e-3). The released projector is two-sided (`sides: two`: R = P^T G Q is r x r, memory (2 + s) r^2 +
(m + n) r), while the paper describes GaLore's. Traps: moments and history are kept when P changes (`on_refresh`), although they then mix
two bases; F is not divided by s.
Shapes: b stacked matrices, m <= n, r rank, s history, k = rn or r^2 entries of R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class NaturalGalore(MatrixSubmission):
    """Natural gradients in a low-rank subspace."""

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
    history: int = 20
    """s: projected gradients that make up the Fisher matrix."""
    damping: float = 1e-3
    """lambda."""
    sides: Literal["one", "two"] = "one"
    """Project the short side, or both (the released code)."""
    projector: linalg.Projector = "eigh"
    """How the singular subspace is found: of the Gram matrix, by a full SVD, or by one iteration from the last subspace (inexact)."""
    on_refresh: Literal["keep", "reset"] = "keep"
    """What becomes of moments and history when P changes."""

    paper: ClassVar[str] = "Das 2024, arXiv 2410.16029"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "(2 + history)*n*rank + m*rank if sides == 'one' else (2 + history)*rank**2 + (m + n)*rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")
        require(self.history >= 1, "history", self.history, "an integer of at least 1")
        require(self.damping > 0, "damping", self.damping, "a positive number")

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        columns = n if self.sides == "one" else r
        state = {"P": linalg.zeros(W_bmn, m, r), "m": linalg.zeros(W_bmn, r, columns), "v": linalg.zeros(W_bmn, r, columns)}
        state["H"] = linalg.zeros(W_bmn, self.history, r * columns)
        return state if self.sides == "one" else state | {"Q": linalg.zeros(W_bmn, n, r)}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        P_bmr = linalg.leading_left(G_bmn, self.rank, self.projector, state["P"] if t > 1 else None)
        state["P"].copy_(P_bmr)
        if self.sides == "two":  # the right singular vectors that belong to P, up to their lengths
            state["Q"].copy_(torch.linalg.qr(G_bmn.mT @ P_bmr)[0])
        if self.on_refresh == "reset":
            for key in ("m", "v", "H"):
                state[key].zero_()

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        P_bmr, H_bsk = state["P"], state["H"]
        R_brn = P_bmr.mT @ G_bmn
        if self.sides == "two":
            R_brn = R_brn @ state["Q"]
        now = (t - 1) % self.history
        H_bsk[:, now] = R_brn.flatten(1)
        system_bss = H_bsk @ H_bsk.mT
        system_bss.diagonal(dim1=-2, dim2=-1).add_(self.damping)
        unit_s1 = torch.zeros(self.history, 1, dtype=H_bsk.dtype, device=H_bsk.device)
        unit_s1[now] = 1.0
        c_bs1 = torch.cholesky_solve(unit_s1.expand(len(H_bsk), -1, -1), torch.linalg.cholesky(system_bss))
        g_brn = (c_bs1.mT @ H_bsk).view_as(R_brn)
        psi_brn = linalg.adam(g_brn, state["m"], state["v"], self.betas, self.eps)
        U_bmn = P_bmr @ psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas))
        return U_bmn @ state["Q"].mT if self.sides == "two" else U_bmn, {}
