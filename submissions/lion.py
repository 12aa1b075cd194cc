"""Lion: the sign of an interpolated momentum, found by a search over programs.

Chen et al. 2023, arXiv 2302.06675. U = sign(b1 M + (1-b1) G); W <- W - lr (U + wd W); M <- b2 M + (1-b2) G. Memory: mn.
Defaults are the paper's betas. Traps: every entry moves by lr, so the learning rate is 3 to 10 times below Adam's and the
decay as much above; where the gradient has always been zero nothing moves (sign(0) = 0), later zeros still follow the momentum.
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
class Lion(MatrixSubmission):
    """Evolved sign momentum."""

    lr: float = 1e-4
    """Peak learning rate: how far every entry moves."""
    betas: tuple[float, float] = (0.9, 0.99)
    """b1 mixes momentum and gradient for the sign, b2 is the momentum's decay."""
    matrices: tuple[str, ...] = (*MATRIX_ROLES, "embed", "head", "norm")
    """Roles that Lion treats, vectors included; Adam has the rest."""

    paper: ClassVar[str] = "Chen et al. 2023, arXiv 2302.06675"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "m*n"
    decay: ClassVar[Literal["before"]] = "before"
    elementwise: ClassVar[bool] = True
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")

    def init(self, W_bmn: Tensor) -> State:
        return {"M": W_bmn.new_zeros(W_bmn.shape, dtype=linalg.arithmetic(W_bmn.dtype))}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        U_bmn = state["M"].lerp(G_bmn, 1 - self.betas[0]).sign_()
        state["M"].lerp_(G_bmn, 1 - self.betas[1])
        return U_bmn, {}

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return dense.beside(self, model, seed, vectors=True)
