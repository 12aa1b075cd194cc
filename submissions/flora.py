"""Flora: Adafactor whose momentum is kept compressed by random matrices that change with time.

Hao, Cao, Mou 2024, arXiv 2402.03293; released package flora-opt 0.0.3 (LGPL: read for the rule, not for code).

    V = row and column means of G^2 + eps, averaged with 1 - t^decay_rate;  X = G / sqrt(V_rows V_columns / mean V_rows)
    step = (1-b1) X + b1 N^T M                                        (N has entries N(0, 1/r); m <= n: the short side is compressed)
    every kappa updates: M <- N' N^T M, then N <- N'
    M <- b1 M + (1-b1) N X;  step <- step / max(1, RMS(step) / clip_rms);  W <- W - lr max(eps_scale, RMS(W)) step

Memory: nr + m + n + 2 (a seed; N is drawn again from it), 1 more for RMS(W) with `scale_parameter`. Without momentum there is no low
rank: plain Adafactor. Defaults: the released replicate.sh (b1 0.9, kappa 1000), scale_parameter on as in the package; all other
parameters go to Adam here, not to Adafactor. The package leaves matrices alone whose short side is below r or whose sides differ by more
than a factor of four; here roles decide. Weight decay multiplies W by 1 - lr wd, without RMS(W).
Traps: N^T N is the identity only on average, and its noise inflates the step by about sqrt(m/r); the second moment is the full gradient's.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, engine, linalg
from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class Flora(MatrixSubmission):
    """Random projections compress the momentum."""

    rank: int = 256
    """r, up to the short side of the smallest matrix."""
    kappa: int = 1000
    """Updates from one random matrix to the next."""
    beta1: float = 0.9
    """Decay rate of the momentum in [0, 1); 0 keeps none."""
    decay_rate: float = -0.8
    """The second moment's decay rate is 1 - t^decay_rate."""
    eps: float = 1e-30
    """Added to the squared gradient."""
    clip_rms: float = 1.0
    """Largest root mean square of the step before the learning rate."""
    scale_parameter: bool = True
    """Multiply the learning rate by RMS(W)."""
    eps_scale: float = 1e-3
    """Least value that stands for RMS(W)."""

    paper: ClassVar[str] = "Hao, Cao, Mou 2024, arXiv 2402.03293"
    kind: ClassVar[Literal["projection"]] = "projection"
    memory: ClassVar[str] = "m + n + (n*rank + 2)*(beta1 > 0) + scale_parameter"
    decay: ClassVar[Literal["before"]] = "before"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.kappa >= 1, "kappa", self.kappa, "an integer of at least 1")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "a number in [0, 1)")
        require(self.decay_rate < 0, "decay_rate", self.decay_rate, "a negative number")
        require(self.clip_rms > 0, "clip_rms", self.clip_rms, "a positive number")

    @property
    def seeded(self) -> bool:
        return self.beta1 > 0

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        state = {"rows": linalg.zeros(W_bmn, m, 1), "columns": linalg.zeros(W_bmn, 1, n)}
        if self.scale_parameter:
            state["rms"] = linalg.zeros(W_bmn, 1, 1).flatten()
        return state | ({"M": linalg.zeros(W_bmn, linalg.rank_of(W_bmn, self.rank), n)} if self.seeded else {})

    def draw(self, state: State, period: int, like: Tensor) -> Tensor:
        """N_brm of a period, from each matrix's seed."""
        return linalg.gaussian(state["seed_b"], period, like.shape[-2], self.rank, like).mT / math.sqrt(self.rank)

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        step_bmn = self.adafactor(G_bmn, state, t)
        if self.seeded:
            M_brn = state["M"]
            before, now = (t - 1) // self.kappa, t // self.kappa
            N_brm = self.draw(state, before, G_bmn)
            up_bmn = N_brm.mT @ M_brn
            if now != before:
                N_brm = self.draw(state, now, G_bmn)
                M_brn = N_brm @ up_bmn
            state["M"].copy_(torch.lerp(N_brm @ step_bmn, M_brn, self.beta1))
            step_bmn.lerp_(up_bmn, self.beta1)
        size = math.sqrt(step_bmn[0].numel())
        scale_b11 = 1 / (step_bmn.norm(dim=(-2, -1), keepdim=True) / (size * self.clip_rms)).clamp(min=1.0)
        if self.scale_parameter:
            scale_b11 = scale_b11 * state["rms"].clamp(min=self.eps_scale)[:, None, None]
        return step_bmn.mul_(scale_b11), {}

    def adafactor(self, G_bmn: Tensor, state: State, t: int) -> Tensor:
        """X: the gradient over the root of its factored second moment; overwrites the gradient."""
        m, n = G_bmn.shape[-2:]
        weight = t**self.decay_rate  # one minus the decay rate
        state["rows"].lerp_(linalg.column_energy(G_bmn.mT).mT.div(n).add_(self.eps), weight)
        state["columns"].lerp_(linalg.column_energy(G_bmn).div_(m).add_(self.eps), weight)
        rows_bm1 = (state["rows"] / state["rows"].mean(-2, keepdim=True)).rsqrt()
        return G_bmn.mul_(rows_bm1).mul_(state["columns"].rsqrt())

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        found = super().optimizers(model, seed)
        if self.scale_parameter:
            found[0] = Scaled(self, dense.split(model, self.matrices)[0], lr=self.lr, seed=seed)
        return found


class Scaled(engine.MatrixOptimizer):
    """Tells the rule the root mean square of each weight before it updates it."""

    @torch.no_grad()
    def apply(self, stacks: Sequence[engine.Stack]) -> None:
        for stack in stacks:
            norms = torch._foreach_norm(list[Tensor](stack.parameters))
            stack.state["rms"].copy_(torch.stack(norms) / math.sqrt(stack.parameters[0].numel()))
        super().apply(stacks)
