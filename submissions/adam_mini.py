"""Adam-mini: Adam with one second moment per block of weights.

Zhang et al. 2024, arXiv 2406.16793; released package adam-mini 1.1.1.

    M <- b1 M + (1-b1) G;  v_block <- b2 v_block + (1-b2) mean(G_block^2)
    W <- W - lr wd W;  W <- W - lr M_hat / (sqrt(v_hat) + eps)

Blocks: a head's rows of queries and keys; a row (neuron, token) of every other matrix; a vector as a whole, without decay. Memory: mn +
the number of blocks. Defaults: the package's. Departure: the package reads blocks off parameter names and takes unknown ones as one
block each; here they follow the roles, and the number of heads is the model's.
Shapes: b stacked matrices as they are stored, m = out, n = in, or one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import MatrixSubmission, Probes, State, StateDtype, Submission, named_roles, require
from submissions.engine import MatrixOptimizer, Named


@dataclass(frozen=True, kw_only=True)
class _Blocks(MatrixSubmission):
    """Adam with a second moment for each of `blocks` equal groups of rows; None is a row each."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    blocks: int | None = None

    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def init(self, W_bmn: Tensor) -> State:
        dtype = linalg.arithmetic(W_bmn.dtype)
        blocks = self.blocks or W_bmn.shape[1]
        return {"M": W_bmn.new_zeros(W_bmn.shape, dtype=dtype), "v": W_bmn.new_zeros(len(W_bmn), blocks, 1, dtype=dtype)}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        M, v = state["M"].lerp_(G_bmn, 1 - self.betas[0]), state["v"]
        v.lerp_(G_bmn.square().view(*v.shape[:2], -1).mean(-1, keepdim=True), 1 - self.betas[1])
        rate = 1 / ((v / (1 - self.betas[1] ** t)).sqrt_().add_(self.eps) * (1 - self.betas[0] ** t))
        return (M.view(*v.shape[:2], -1) * rate).view(G_bmn.shape), {}


@dataclass(frozen=True, kw_only=True)
class AdamMini(Submission):
    """Adam with fewer learning rates."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """Decoupled decay of the matrices, relative to the learning rate."""
    heads: int | None = None
    """Blocks of queries and keys; null takes the model's number of heads."""
    head_roles: tuple[str, ...] = ("attn.q", "attn.k")
    """Roles with a block per head."""
    state_dtype: StateDtype = "fp32"
    """Storage of M and v between steps."""

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2406.16793"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "m*n + (heads if role in head_roles else rows)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(self.heads is None or self.heads >= 1, "heads", self.heads, "an integer of at least 1, or null")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        groups: dict[int | None, list[Named]] = {None: [], self.heads_of(model): []}
        vectors = []
        for name, role, parameter in named_roles(model):
            if parameter.ndim != 2:
                vectors.append(Named(name, parameter))
            else:
                groups[self.heads_of(model, parameter) if dense.covers(self.head_roles, role) else None].append(Named(name, parameter))
        chosen = [(blocks, self.weight_decay, members) for blocks, members in groups.items()] + [(1, 0.0, vectors)]
        return [
            MatrixOptimizer(
                _Blocks(betas=self.betas, eps=self.eps, blocks=blocks, weight_decay=weight_decay, state_dtype=self.state_dtype),
                members,
                lr=self.lr,
                seed=seed,
            )
            for blocks, weight_decay, members in chosen
            if members
        ]

    def heads_of(self, model: nn.Module, parameter: nn.Parameter | None = None) -> int:
        """The number of heads, checked against the rows of a matrix.

        Raises:
            ValueError: it is not set and the model does not tell, or it does not divide the rows.
        """
        found = self.heads
        for owner, name in (("shape", "heads"), ("config", "num_attention_heads")):
            found = found or getattr(getattr(model, owner, None), name, None)
        if found is None:
            raise ValueError("heads = None: the model has neither shape.heads nor config.num_attention_heads; set the number of heads")
        rows = found if parameter is None else parameter.shape[0]
        require(rows % found == 0, "heads", found, f"a divisor of {rows}, the rows of the query and key matrices")
        return int(found)
