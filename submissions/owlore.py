"""OwLore: LISA with layers drawn by their outliers, and GaLore inside the drawn layers.

Li et al. 2024, arXiv 2405.18380; released code pixeli99/OwLore e415973.

    D_l = share of the entries of layer l's matrices above M times their mean magnitude
    every K updates: draw gamma of the L layers without replacement, with probability ~ D_l; freeze the others
    drawn layers: GaLore on the matrices (rank r, every T updates), Adam on the norms; embedding, head and final norm: Adam

Memory: (2nr + mr) gamma/L on average. Departures: the paper's score weighs |W_ij| by the norm of input j over calibration data,
computed once; here it is |W_ij| alone, unless the `scores` of the layers are given. Without any outlier, as in a fresh model, the
draw is uniform. The released code never drops a state; here a frozen layer has none, so a subspace lives for at most K updates and
T above K means one per visit. Defaults: its script (gamma 5, K 50, lr 3e-4, r 256, T 100, alpha 1). Traps: its scores are a file
for LLaMA-2 under a name that its own code does not find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import blocks, engine, linalg
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, State, named_roles, require
from submissions.blocks import BlockSubmission
from submissions.engine import MatrixOptimizer, Named


@dataclass(frozen=True, kw_only=True)
class Owlore(BlockSubmission):
    """Outlier-weighted layerwise sampled low-rank projection."""

    lr: float = 3e-4
    """Peak learning rate."""
    gamma: int = 5
    """Layers that train at a time."""
    gap: int = 50
    """K: updates from one draw to the next."""
    rank: int = 256
    """r of the projection, up to the short side of the smallest matrix."""
    refresh: int = 100
    """T: updates from one subspace to the next."""
    alpha: float = 1.0
    """Scale of the projected update."""
    eps: float = 1e-8
    """Adam's epsilon: beside the raw sqrt(v) in the subspace, as GaLore's, and beside the bias-corrected one elsewhere."""
    weight_decay: float = 0.0
    """Decoupled decay of what is trained, relative to the learning rate: after the projected step, as GaLore's, and before any other."""
    outlier: float = 13.0
    """M: multiple of the mean magnitude from which an entry is an outlier."""
    scores: tuple[float, ...] = ()
    """D_l of each layer, if measured elsewhere; empty measures the weights."""

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2405.18380"
    memory: ClassVar[str] = "gamma/layers*(2*n*rank + m*rank)"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "rank", "refresh"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(all(score >= 0 for score in self.scores), "scores", self.scores, "numbers of zero or more")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        prefixes = blocks.layers(model)
        require(self.gamma <= len(prefixes), "gamma", self.gamma, f"at most {len(prefixes)}, the layers of this model")
        require(len(self.scores) in (0, len(prefixes)), "scores", self.scores, f"{len(prefixes)} numbers, one per layer, or none")
        measured = torch.tensor(self.scores) if self.scores else torch.stack([outliers(model, prefix, self.outlier) for prefix in prefixes])
        model.register_buffer("outlier_scores", measured, persistent=False)  # of the start: a resumed trial measures it again
        return super().wrap(model, seed)

    def always(self, model: nn.Module) -> list[Named]:
        return blocks.outside(model, blocks.layers(model))

    def selected(self, model: nn.Module, seed: int, period: int) -> list[Named]:
        prefixes = blocks.layers(model)
        scores = model.get_buffer("outlier_scores")
        chances = torch.ones(len(prefixes)) if scores.is_meta else scores.cpu().float() + 1e-6  # all layers can be drawn
        drawn = torch.multinomial(chances, self.gamma, generator=linalg.generator(engine.seed_of(seed, "layers"), period))
        return blocks.inside(model, [prefixes[number] for number in sorted(drawn.tolist())])

    def own(self, active: Sequence[Named], seed: int) -> list[Optimizer]:
        rule = _Projected(
            rank=self.rank,
            gap=self.refresh,
            alpha=self.alpha,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            state_dtype=self.state_dtype,
        )
        matrices = [member for member in active if member.parameter.ndim == 2]
        others = [member for member in active if member.parameter.ndim != 2]
        return [MatrixOptimizer(rule, matrices, lr=self.lr, seed=seed), self.adam(others, self.lr, seed)]


@dataclass(frozen=True, kw_only=True)
class _Projected(MatrixSubmission):
    """GaLore's rule, with the constants of its surroundings."""

    rank: int = 256
    gap: int = 100
    alpha: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def init(self, W_bmn: Tensor) -> State:
        m, n = W_bmn.shape[-2:]
        r = linalg.rank_of(W_bmn, self.rank)
        return {"P": linalg.zeros(W_bmn, m, r), "m": linalg.zeros(W_bmn, r, n), "v": linalg.zeros(W_bmn, r, n)}

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        state["P"].copy_(linalg.leading_left(G_bmn, self.rank))

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        psi_brn = linalg.adam(state["P"].mT @ G_bmn, state["m"], state["v"], self.betas, self.eps)
        return state["P"] @ psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas)), {}


def outliers(model: nn.Module, prefix: str, multiple: float) -> Tensor:
    """Share of the entries of a layer's matrices whose magnitude exceeds `multiple` times the mean magnitude of their matrix."""
    matrices = [p.detach() for name, role, p in named_roles(model) if name.startswith(prefix) and role in MATRIX_ROLES]
    found = torch.stack([(W.abs() > multiple * W.abs().mean()).sum() for W in matrices]).sum()
    return found / sum(W.numel() for W in matrices)
