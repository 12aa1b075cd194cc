"""GradNormLoRP: weight normalisation, with GaLore on the directions and Adam on the lengths.

Huang et al. 2024, arXiv 2412.19616; weight normalisation: Salimans and Kingma 2016, arXiv 1602.07868. Released code:
Jhhuangkay/Gradient-Weight-normalized-Low-rank-Projection-for-Efficient-LLM-Training 66c8e76.

    W = g V / ||V||, row by row (a row belongs to an output); y = g / ||V|| (V x)
    every T updates: P = leading r left singular vectors of G = dL/dV (m <= n: the short side is projected)
    R = P^T G;  psi = Adam(R);  V <- V - lr alpha P psi(R);  g <- g - lr Adam(dL/dg)

Memory: 2nr + mr for V, 2 rows + 1 for g (`rows` outputs); weights: rows more than without. Defaults: the released README (lr 0.01,
alpha 0.25, r 128, T 250). The released code is no reference: one class recomputes g = ||V|| at each step, so that updates of g live for
one step, keeps V beside W and omits the tangent projection in dL/dV; the other never writes its update to W. Here V and g are the
parameters and autograd gives their gradients. Traps: dL/dV is orthogonal to V row by row, so steps lengthen V and lower the effective rate
lr / ||V||; weight decay of V only undoes that.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class GradnormLorp(MatrixSubmission):
    """Low-rank projection of the gradient of normalised weights."""

    lr: float = 1e-2
    """Peak learning rate (V sees lr * alpha)."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 0.25
    """Scale of the projected update."""
    gap: int | None = 250
    """T: updates from one subspace to the next; null keeps the first."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the subspace."""
    eps: float = 1e-6
    """Beside the raw sqrt(v)."""
    projector: linalg.Projector = "eigh"
    """How the singular subspace is found: of the Gram matrix, by a full SVD, or by one iteration from the last subspace (inexact)."""

    paper: ClassVar[str] = "Huang et al. 2024, arXiv 2412.19616"
    kind: ClassVar[Literal["re-parameterisation"]] = "re-parameterisation"
    memory: ClassVar[str] = "2*n*rank + m*rank + 2*rows + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap is None or self.gap >= 1, "gap", self.gap, "an integer of at least 1, or null")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and getattr(child, "role", None) in self.matrices:
                    setattr(module, name, NormalisedLinear(child))
        return model

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        return {"P": linalg.zeros(W_bmn, m, r), "m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n)}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        state["P"].copy_(linalg.leading_left(G_bmn, self.rank, self.projector, state["P"] if t > 1 else None))

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        P_bmr = state["P"]
        psi_brn = linalg.adam(P_bmr.mT @ G_bmn, state["m"], state["v"], self.betas, self.eps)
        return P_bmr @ psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas)), {}


class NormalisedLinear(nn.Module):
    """y = g / ||V|| (V x) + bias; the same function as the given layer to begin with."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.role = linear.role
        self.weight = linear.weight
        self.gain = nn.Parameter(torch.linalg.vector_norm(linear.weight.detach(), dim=1))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = F.linear(x, self.weight) * (self.gain / torch.linalg.vector_norm(self.weight, dim=1))
        return scaled if self.bias is None else scaled + self.bias
