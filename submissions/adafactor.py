"""Adafactor: Adam's second moment as an outer product of row and column means, without a first moment.

Shazeer and Stern 2018, arXiv 1804.04235, in the form of `transformers.Adafactor`, the GaLore family's baseline.

    b2_t = 1 - t^decay_rate;  r, c <- b2_t-averages of the row and column means of G^2 + eps
    V = r c^T / mean(r);  U = G / sqrt(V);  U <- U / max(1, RMS(U) / threshold);  M <- b1 M + (1-b1) U if b1;  W <- W - lr U

Memory: m + n, and mn with b1; a vector keeps its whole second moment. Defaults: the family's call
(relative_step and scale_parameter off, threshold 1, decay_rate -0.8). Departure: with b1, Hugging Face averages lr U, here U is averaged,
which differs only while lr changes.
Trap: `torch.optim.Adafactor` is another rule: lr is capped by 1/sqrt(t) and multiplied by RMS(W).
Shapes: b stacked matrices as they are stored (out x in), or one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Adafactor(MatrixSubmission):
    """Factored second moments."""

    lr: float = 1e-3
    """Peak learning rate."""
    beta1: float | None = None
    """Decay rate of the first moment; null keeps none."""
    decay_rate: float = -0.8
    """Exponent of the second moment's decay rate, in [-1, 0)."""
    eps: float = 1e-30
    """Added to the squared gradient."""
    clip_threshold: float = 1.0
    """Largest root mean square of an update."""
    matrices: tuple[str, ...] = (*MATRIX_ROLES, "embed", "head", "norm")
    """Roles that Adafactor treats, vectors included; Adam has the rest."""

    paper: ClassVar[str] = "Shazeer and Stern 2018, arXiv 1804.04235"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "m + n + (0 if beta1 is None else m*n)"
    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta1 is None or 0 <= self.beta1 < 1, "beta1", self.beta1, "a number in [0, 1), or null")
        require(-1 <= self.decay_rate < 0, "decay_rate", self.decay_rate, "a number in [-1, 0)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.clip_threshold > 0, "clip_threshold", self.clip_threshold, "a positive number")

    def init(self, W_bmn: Tensor) -> State:
        whole = W_bmn.new_zeros(W_bmn.shape, dtype=linalg.arithmetic(W_bmn.dtype))
        first = {} if self.beta1 is None else {"M": whole}
        if W_bmn.ndim == 2:  # one vector
            return {"v": whole.clone(), **first}
        m, n = W_bmn.shape[-2:]
        return {"r": linalg.zeros(W_bmn, m, 1), "c": linalg.zeros(W_bmn, 1, n), **first}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        weight = t**self.decay_rate  # 1 - b2_t
        square_bmn = G_bmn.square().add_(self.eps)
        if "v" in state:
            U_bmn = state["v"].lerp_(square_bmn, weight).rsqrt().mul_(G_bmn)
        else:
            r_bm1 = state["r"].lerp_(square_bmn.mean(-1, keepdim=True), weight)
            c_b1n = state["c"].lerp_(square_bmn.mean(-2, keepdim=True), weight)
            U_bmn = ((r_bm1 / r_bm1.mean(-2, keepdim=True)).rsqrt() * c_b1n.rsqrt()).mul_(G_bmn)
        rms = U_bmn.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (U_bmn.ndim - 1))
        U_bmn.div_((rms / self.clip_threshold).clamp_min_(1.0))
        if self.beta1 is not None:
            U_bmn = state["M"].lerp_(U_bmn, 1 - self.beta1).clone()
        return U_bmn, {}

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return dense.beside(self, model, seed, vectors=True)
