"""SCALE: the gradient with normalised columns, and a momentum only where it matters, in the head.

Glentis et al. 2025, arXiv 2506.16659; released code OptimAI-Lab/Minimalist_LLM_Pretraining 9c487e7, mem_eff_pt/pt_scale/scale_optimizer.py.

    head: M <- b M + (1-b) G, and M in place of G;   W <- W - lr wd W;   W <- W - lr G / max(sqrt(mean_in(G^2)), 1e-8)

Memory: 0; the head adds mn, vectors are AdamW's. A "column" is one of the transposed weight: the mean runs over the inputs of each
output, and for the embedding, whose rows are tokens, over the tokens. Defaults: the scripts' (lr 1e-3, b 0.9; lr 2e-4 at 1B and
1e-4 at 7B with `dense_lr` 1e-3). Trap: without a second moment every output moves by lr however small its gradient is, noise included.
Shapes: b stacked matrices as they are stored, m = out, n = in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, State, named_roles, require
from submissions.engine import MatrixOptimizer, Named


@dataclass(frozen=True, kw_only=True)
class _Normalised(MatrixSubmission):
    """The rule for one group of matrices."""

    momentum: float | None = None
    tokens: bool = False

    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def init(self, W_bmn: Tensor) -> State:
        return {} if self.momentum is None else {"M": linalg.zeros(W_bmn, *W_bmn.shape[-2:])}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        if self.momentum is not None:
            G_bmn = state["M"].lerp_(G_bmn, 1 - self.momentum)
        size = G_bmn.square().mean(-2 if self.tokens else -1, keepdim=True).sqrt_().clamp_min_(1e-8)
        return G_bmn / size, {}


@dataclass(frozen=True, kw_only=True)
class Scale(MatrixSubmission):
    """Column-normalised gradient with last-layer momentum."""

    lr: float = 1e-3
    """Peak learning rate."""
    momentum: float = 0.9
    """b in [0, 1), for `momentum_roles`."""
    momentum_roles: tuple[str, ...] = ("head",)
    """Roles with a momentum; mn of state each."""
    token_roles: tuple[str, ...] = ("embed",)
    """Roles whose mean runs over the rows."""
    matrices: tuple[str, ...] = (*MATRIX_ROLES, "embed", "head")
    """Roles that SCALE treats; AdamW has the rest."""
    dense_eps: float = 1e-8
    """AdamW's epsilon."""

    paper: ClassVar[str] = "Glentis et al. 2025, arXiv 2506.16659"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "0"
    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        roles = {name: role for name, role, _ in named_roles(model)}
        matrices, rest = dense.split(model, self.matrices)
        groups: dict[tuple[bool, bool], list[Named]] = {}
        for member in matrices:
            role = roles[member.name]
            groups.setdefault((dense.covers(self.momentum_roles, role), dense.covers(self.token_roles, role)), []).append(member)
        found: list[Optimizer] = []
        for (momentum, tokens), members in groups.items():
            rule = _Normalised(
                momentum=self.momentum if momentum else None, tokens=tokens, weight_decay=self.weight_decay, state_dtype=self.state_dtype
            )
            found.append(MatrixOptimizer(rule, members, lr=self.lr, seed=seed))
        return [*found, *dense.of_rest(self, rest, seed)]
