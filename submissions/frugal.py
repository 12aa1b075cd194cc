"""FRUGAL: Adam on a part of the gradient that changes with time, sign descent on all the rest.

Zmushko et al. 2024, arXiv 2411.07837; released code fzmushko/FRUGAL c7ebe4c.

    every T updates: choose the part, forget m, v and the count k of updates on it
    R = P^T G;  u = Adam(R) after k updates (torch's eps and bias correction)
    W <- (1 - lr wd) W;  W <- W - lr (P u + free_lr sign(G - P R))

`split` says what P is: `column` r coordinates of the short side, at random; `svd` leading singular vectors; `random` an orthonormal draw;
`block` whole matrices, a share rho of their number in turn, all others without state. r = rho m, rounded. Memory: column 2nr + 2r (int64
indices) + 2 (a seed); svd 2nr + mr; random 2nr + mr + 2; block 2mn of the matrices at work, 2 rho mn on the mean over all. rho = 0 is sign
descent without state, rho = 1 Adam that restarts every T updates. Defaults: the released C4 scripts (lr 1e-3, T 200, rho 0.25), where the
split is `block`, descending; k, their rate of the matrices over that of the rest, is lr / dense_lr here.
Traps: blocks are matrices, not layers; the sign of a projected remainder does not lie in the complement of P; the published runs keep
fp32 states under autocast, so their numbers do not compare with those of bf16 runs.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, engine, linalg
from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Frugal(MatrixSubmission):
    """Full-rank updates with a reduced overhead: state-full and state-free parts."""

    rho: float = 0.25
    """Share of the gradient that Adam treats, in [0, 1]; r = rho m, halves rounded down."""
    split: Literal["block", "column", "svd", "random"] = "block"
    """How the part is chosen."""
    order: Literal["descending", "ascending", "random"] = "descending"
    """Turn of the matrices (`block`): from the last to the first, the reverse, or shuffled anew each time."""
    gap: int = 200
    """T: updates from one choice to the next."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    free: Literal["sign", "identity", "none"] = "sign"
    """What becomes of the rest of the gradient."""
    free_lr: float = 1.0
    """Learning rate of the rest over that of Adam's part."""
    dense_eps: float = 1e-8
    """Adam's epsilon for the parameters that the rule does not treat."""

    paper: ClassVar[str] = "Zmushko et al. 2024, arXiv 2411.07837"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = (
        "2*rho*m*n if split == 'block' else 2*n*ceil(rho*m - 0.5) + "
        "(2*ceil(rho*m - 0.5) + 2 if split == 'column' else m*ceil(rho*m - 0.5) + 2*(split == 'random'))"
    )
    decay: ClassVar[Literal["before"]] = "before"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.rho <= 1, "rho", self.rho, "a fraction in [0, 1]")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")
        require(self.free_lr >= 0, "free_lr", self.free_lr, "zero or more")

    @property
    def seeded(self) -> bool:
        return self.split in ("column", "random")

    def init(self, W_bmn: Tensor) -> State:
        b, m, n = W_bmn.shape
        r = m * (self.rho == 1) if self.split == "block" else math.ceil(self.rho * m - 0.5)
        state = {"m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n)}
        if self.split == "block":
            return state
        if self.split == "column":
            return state | {"index": torch.zeros(b, r, dtype=torch.int64, device=W_bmn.device)}
        return state | {"P": linalg.zeros(W_bmn, m, r)}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        m, r = G_bmn.shape[-2], state["m"].shape[-2]
        state["m"].zero_()
        state["v"].zero_()
        if r == 0 or self.split == "block":
            return
        if self.split == "column":
            state["index"].copy_(linalg.random_indices(state["seed_b"], t, m, r, G_bmn))
        elif self.split == "svd":
            state["P"].copy_(linalg.leading_left(G_bmn, r))
        else:
            state["P"].copy_(linalg.random_orthonormal(state["seed_b"], t, m, r, G_bmn))

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        count = (t - 1) % self.gap + 1
        if self.split == "block":
            return self.adam(G_bmn, state, count) if state["m"].shape[-2] else self.state_free(G_bmn), {}
        if self.split == "column":
            index_brn = state["index"][..., None].expand_as(state["m"])
            u_brn = self.adam(G_bmn.gather(-2, index_brn), state, count)
            return self.state_free(G_bmn).scatter_(-2, index_brn, u_brn), {}
        P_bmr = state["P"]
        R_brn = P_bmr.mT @ G_bmn
        if P_bmr.shape[-1] == P_bmr.shape[-2]:  # what is left is rounding, and its sign would move everything
            return P_bmr @ self.adam(R_brn, state, count), {}
        rest_bmn = self.state_free(G_bmn.baddbmm_(P_bmr, R_brn, alpha=-1))
        return rest_bmn.baddbmm_(P_bmr, self.adam(R_brn, state, count)), {}

    def adam(self, R_brn: Tensor, state: State, count: int) -> Tensor:
        """u: torch's Adam direction after `count` updates of this state."""
        eps = self.eps * math.sqrt(1 - self.betas[1] ** count)
        return linalg.adam(R_brn, state["m"], state["v"], self.betas, eps).mul_(linalg.bias_correction(count, self.betas))

    def state_free(self, G_bmn: Tensor) -> Tensor:
        """The update of what has no state; overwrites its argument."""
        if self.free == "none":
            return G_bmn.zero_()
        return (G_bmn.sign_() if self.free == "sign" else G_bmn).mul_(self.free_lr)

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        found = super().optimizers(model, seed)
        if self.split == "block":
            found[0] = Blocks(self, dense.split(model, self.matrices)[0], lr=self.lr, seed=seed)
        return found


class Blocks(engine.MatrixOptimizer):
    """Takes whole matrices in turn: those at work have Adam's state, all others none."""

    def __init__(self, rule: Frugal, members: Sequence[engine.Named], *, lr: float, seed: int) -> None:
        super().__init__(rule, members, lr=lr, seed=seed)
        self.stacked = not engine.ALONE.get()  # asked now: blocks are chosen again long after this
        self.members, self.seed, self.gap, self.order = members, seed, rule.gap, rule.order
        self.full, self.empty = dataclasses.replace(rule, rho=1.0), dataclasses.replace(rule, rho=0.0)
        self.size = round(rule.rho * len(members))
        self.choose(1)

    def chosen(self, t: int) -> set[int]:
        """Places of the matrices at work at update t: the next `size` in turn."""
        count, period = len(self.members), (t - 1) // self.gap
        if self.order == "random":
            draw = torch.randperm(count, generator=linalg.generator(engine.seed_of(self.seed, "blocks"), period))
            return set(draw[: self.size].tolist())
        turn = {(period * self.size + k) % count for k in range(self.size)}
        return {count - 1 - place for place in turn} if self.order == "descending" else turn

    def choose(self, t: int) -> None:
        """Gives the matrices at work at update t an empty state and drops all others'."""
        chosen = self.chosen(t)
        self.stacks = []
        for rule, at_work in ((self.full, True), (self.empty, False)):
            part = [member for place, member in enumerate(self.members) if (place in chosen) == at_work]
            self.stacks += [engine.Stack(group, rule, self.seed) for group in engine.stacks_of(part, self.stacked)]

    def advance(self) -> None:
        if self.t % self.gap == 0:
            self.choose(self.t + 1)
        super().advance()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.choose(max(state_dict["t"], 1))
        super().load_state_dict(state_dict)
