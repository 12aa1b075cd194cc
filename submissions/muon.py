"""Muon: the momentum's nearest orthogonal matrix as the update of every hidden matrix, AdamW for the rest.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982 (`match_rms`).

    B <- mu B + (1-mu) G;  X = (1-mu) G + mu B (Nesterov), else B;  O = NewtonSchulz(X / ||X||_F)
    W <- W - lr wd W;  W <- W - lr s O,   s = sqrt(max(1, out/in)) (`spectral`), 0.2 sqrt(max(out, in)) (`match_rms`), or 1

Memory: mn. The same numbers as `torch.optim.Muon`, stacked: matrices of one shape share each product. Defaults: torch's, but no decay
(theirs is 0.1). The original's B <- mu B + G differs by a factor that the normalisation removes. Traps: embedding and head do not belong
to Muon; `ns_dtype` bf16 is the published setting, slow for small matrices on a CPU; singular values end within 0.7 to 1.2, not at 1.
Shapes: b stacked matrices as they are stored, m = out, n = in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Muon(MatrixSubmission):
    """Momentum orthogonalised by Newton-Schulz."""

    lr: float = 1e-3
    """Peak learning rate of the hidden matrices."""
    momentum: float = 0.95
    """mu in [0, 1)."""
    nesterov: bool = True
    """Look ahead along the momentum."""
    ns_steps: int = 5
    """Newton-Schulz iterations."""
    ns_dtype: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the iteration; fp32 follows the weights if they are fp64."""
    scale: Literal["spectral", "match_rms", "none"] = "spectral"
    """s: keep the spectral norm's effect over shapes, make the update as large as AdamW's typical one, or leave it."""
    dense_lr: float | None = 1e-3
    """Peak learning rate of AdamW, which has the other parameters; null takes `lr`."""
    dense_eps: float = 1e-8
    """AdamW's epsilon."""

    paper: ClassVar[str] = "Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "m*n"
    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")
        require(self.ns_steps >= 1, "ns_steps", self.ns_steps, "an integer of at least 1")

    def init(self, W_bmn: Tensor) -> State:
        return {"B": linalg.zeros(W_bmn, *W_bmn.shape[-2:])}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        B_bmn = state["B"].lerp_(G_bmn, 1 - self.momentum)
        X_bmn = G_bmn.lerp(B_bmn, self.momentum) if self.nesterov else B_bmn
        O_bmn = linalg.newton_schulz(X_bmn.bfloat16() if self.ns_dtype == "bf16" else X_bmn, self.ns_steps)
        return O_bmn.to(G_bmn.dtype).mul_(self.factor(*G_bmn.shape[-2:])), {}

    def factor(self, m: int, n: int) -> float:
        """s for an m x n (out x in) matrix."""
        if self.scale == "spectral":
            return math.sqrt(max(1.0, m / n))
        return 0.2 * math.sqrt(max(m, n)) if self.scale == "match_rms" else 1.0
