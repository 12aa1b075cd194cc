"""LIFT: Adam on the principal weights, the largest entries of a matrix's low-rank approximation.

Liu et al. 2025, arXiv 2506.00772; released code zihanghliu/LIFT c4a679d.

    every T updates:  L = best rank-q approximation of W;  M = the k = r (m+n) entries with the largest |L|
    Adam on the entries of W in M, with the state of the entries that were in the last M too; the others start from zero

Memory: 2k and k indices of 4 bytes (the released code keeps an mn mask on the host). The gradient is that of the whole matrix:
state is what it saves. q from the short side on is W itself, selection by magnitude. Defaults: the paper's commonsense
fine-tuning of LLaMA-2-7B (lr 1e-4, r 128, q 64, T 2000). Traps: bias correction counts updates, not those of an entry, so entries
that come late take small first steps with beta2 = 0.999; the mask costs an SVD of W; a rank of half the short side of a square
matrix is the whole matrix.
Shapes: W is m x n = out x in as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import MATRIX_ROLES, Submission, require
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class Lift(Submission):
    """Low-rank informed sparse fine-tuning."""

    lr: float = 1e-4
    """Peak learning rate."""
    matrices: tuple[str, ...] = MATRIX_ROLES
    """Roles of the matrices whose principal weights are trained."""
    rest: Literal["train", "freeze"] = "freeze"
    """What becomes of all other parameters: Adam, or nothing."""
    rank: int = 128
    """r: as many entries as a LoRA of this rank has."""
    filter_rank: int = 64
    """q: singular values that say which entries are principal."""
    gap: int = 2000
    """T: updates from one mask to the next."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: float = 1e-8
    """Adam's epsilon, beside the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """Decoupled decay of what is trained, relative to the learning rate."""

    paper: ClassVar[str] = "Liu et al. 2025, arXiv 2506.00772"
    kind: ClassVar[Literal["selection"]] = "selection"
    memory: ClassVar[str] = "3*rank*(m + n)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.filter_rank >= 1, "filter_rank", self.filter_rank, "an integer of at least 1")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        for member in dense.split(model, self.matrices)[1]:
            member.parameter.requires_grad_(self.rest == "train")
        return model

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        matrices, others = dense.split(model, self.matrices)
        options: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return [PrincipalAdam(matrices, self), *([dense.adam(others, decay="before", **options)] if others else [])]


class PrincipalAdam(dense.ByParameter, dense.ExactState):
    """AdamW on chosen entries of each matrix."""

    def __init__(self, members: Sequence[Named], rule: Lift) -> None:
        super().__init__([member.parameter for member in members], {"lr": rule.lr, "t": 0})
        self.rule = rule
        for W in self.param_groups[0]["params"]:
            count = rule.rank * sum(W.shape)
            require(
                count <= W.numel(), "rank", rule.rank, f"at most {W.numel() // sum(W.shape)} for a matrix of {W.shape[0]} x {W.shape[1]}"
            )
            moments = W.new_zeros(2, count, dtype=linalg.arithmetic(W.dtype))
            self.state[W] = {"index": W.new_zeros(count, dtype=torch.int32), "m": moments[0].clone(), "v": moments[1].clone()}

    def advance(self) -> None:
        self.param_groups[0]["t"] += 1

    @torch.no_grad()
    def apply(self) -> None:
        group, rule = self.param_groups[0], self.rule
        t, lr = group["t"], group["lr"]
        for W in group["params"]:
            if W.grad is None or W.is_meta:
                continue
            state = self.state[W]
            if (t - 1) % rule.gap == 0:
                select(W, state, rule)
            index = state["index"].long()
            entries, G = W.view(-1)[index].to(state["m"].dtype), W.grad.reshape(-1)[index].to(state["m"].dtype)
            psi = linalg.adam(G, state["m"], state["v"], rule.betas, rule.eps * (1 - rule.betas[1] ** t) ** 0.5)
            entries.mul_(1 - lr * rule.weight_decay).sub_(psi, alpha=lr * linalg.bias_correction(t, rule.betas))
            W.view(-1)[index] = entries.to(W.dtype)


def select(W: Tensor, state: dict[str, Tensor], rule: Lift) -> None:
    """The new entries, in their order in the matrix, with the moments of those that were entries before."""
    chosen = principal(W, len(state["index"]), rule.filter_rank)
    for key in ("m", "v"):
        whole = state[key].new_zeros(W.numel())
        whole[state["index"].long()] = state[key]
        state[key].copy_(whole[chosen])
    state["index"].copy_(chosen)


def principal(W: Tensor, count: int, rank: int) -> Tensor:
    """Places of the `count` largest entries, by size, of W's best approximation of this rank, in ascending order."""
    U, s, Vt = torch.linalg.svd(W.to(linalg.arithmetic(W.dtype)), full_matrices=False)
    low = (U[:, :rank] * s[:rank]) @ Vt[:rank]
    places: Tensor = low.abs().flatten().topk(count).indices.sort().values
    return places
