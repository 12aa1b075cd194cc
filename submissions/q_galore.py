"""Q-GaLore: GaLore with bytes for weights and moments, half bytes for the projection, and fewer and fewer refreshes.

Zhang et al. 2024, arXiv 2407.08296; released code VITA-Group/Q-GaLore 5bd2f1c (PyPI q-galore-torch 1.0).

    when a matrix is due: P = leading r left singular vectors of G, in 4 bits      (m <= n: the short side is projected)
    c = |cos(first vector before, first vector now)|; if the last five c are 0.4 or more on the mean, its gap T <- 2T
    R = P^T G;  u = Adam(R) with m, v in bytes;  W <- W - lr alpha P u, rounded at random to W's 8-bit grid

Memory: 2nr + mr/2 bytes, a scale for every 256 moments and two for every 256 entries of P, 9 numbers that schedule refreshes, 2 (a seed).
The weights lie on their 8-bit grid at all times (256 entries share a step and a least value), but as floats, because torch
differentiates only floats: records show their float bytes, where the paper counts mn + 8 mn/256. Defaults: the released 60M script (lr
0.015, T 200); its command line sets beta2 = 0.95, here 0.999. Departures: the released cosine has a sign, which the arbitrary signs
of singular vectors make random; its P takes a byte for each entry; its classes run neither on a CPU nor with bitsandbytes 0.50.
Embedding and head stay in floats.
Shapes: b stacked matrices, m <= n, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from submissions import dense, engine, linalg, quantisation
from submissions.base import MatrixSubmission, Probes, State, named_roles, require

BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class QGalore(MatrixSubmission):
    """Quantised GaLore with layer-adaptive refreshes."""

    lr: float = 1.5e-2
    """Peak learning rate (the projected matrices see lr * alpha)."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 0.25
    """Scale of the projected update."""
    gap: int = 200
    """T: updates from one subspace to the next, to begin with."""
    queue: int = 5
    """Similarities that must have been seen before T is doubled."""
    similarity: float = 0.4
    """Mean of the queue from which T is doubled; above 1 never."""
    int8_weights: bool = True
    """Keep the weights on an 8-bit grid."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the subspace."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    projector: linalg.Exact = "eigh"
    """How the singular subspace is found: of the Gram matrix, or by a full SVD."""

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2407.08296"
    kind: ClassVar[Literal["quantised"]] = "quantised"
    memory: ClassVar[str] = "0.5*n*rank + 2*ceil(n*rank/256) + 0.25*ceil(m*rank/2) + 2*ceil(m*rank/256) + queue + 4 + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")
        require(self.queue >= 1, "queue", self.queue, "an integer of at least 1")

    @property
    def seeded(self) -> bool:
        return True

    def init(self, W_bmn: Tensor) -> State:
        b, m, n = W_bmn.shape
        r = linalg.rank_of(W_bmn, self.rank)
        scales = W_bmn.new_zeros(b, math.ceil(m * r / BLOCK), dtype=torch.float32)
        state = {"P": W_bmn.new_zeros(b, math.ceil(m * r / 2), dtype=torch.uint8), "P_step": scales, "P_low": scales.clone()}
        for moment in "mv":
            state[moment] = W_bmn.new_zeros(b, r, n, dtype=torch.uint8)
            state[f"{moment}_scale"] = W_bmn.new_zeros(b, math.ceil(r * n / BLOCK), dtype=torch.float32)
        due = W_bmn.new_ones(b, dtype=torch.int64)
        return state | {"next": due, "gap": self.gap * due, "seen": W_bmn.new_full((b, self.queue), -1.0, dtype=torch.float32)}

    def basis(self, state: State, m: int, like: Tensor) -> Tensor:
        """P_bmr from its half bytes."""
        codes = torch.stack([state["P"] >> 4, state["P"] & 15], dim=-1).flatten(1)[:, : m * self.rank]
        return quantisation.off_grid(codes.view(-1, m, self.rank), state["P_step"], state["P_low"], BLOCK).to(like.dtype)

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        due = (state["next"] == t).nonzero()[:, 0]
        if len(due) == 0:
            return
        m = G_bmn.shape[-2]
        P_bmr = linalg.leading_left(G_bmn[due], self.rank, self.projector)
        if t > 1:
            before_bm = self.basis(state, m, G_bmn)[due, :, 0]
            cosine_b = F.cosine_similarity(before_bm, P_bmr[..., 0], dim=-1).abs().float()
            seen = torch.cat([state["seen"][due, 1:], cosine_b[:, None]], dim=1)
            still_b = (seen >= 0).all(-1) & (seen.mean(-1) >= self.similarity)
            state["seen"][due] = seen
            state["gap"][due] *= 1 + still_b.long()
        codes, step, low = quantisation.on_grid(P_bmr, 4, BLOCK)
        pairs = F.pad(codes.flatten(1), (0, m * self.rank % 2)).view(len(due), -1, 2)
        state["P"][due] = pairs[..., 0] << 4 | pairs[..., 1]
        state["P_step"][due], state["P_low"][due] = step.float(), low.float()
        state["next"][due] = t + state["gap"][due]

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        P_bmr = self.basis(state, G_bmn.shape[-2], G_bmn)
        R_brn = P_bmr.mT @ G_bmn
        m_brn = quantisation.dequantise(state["m"], state["m_scale"], True, R_brn, BLOCK)
        v_brn = quantisation.dequantise(state["v"], state["v_scale"], False, R_brn, BLOCK)
        psi_brn = linalg.adam(R_brn, m_brn, v_brn, self.betas, self.eps * math.sqrt(1 - self.betas[1] ** t))
        for key, moment in (("m", m_brn), ("v", v_brn)):
            codes, scales = quantisation.quantise(moment, key == "m", BLOCK)
            state[key].copy_(codes)
            state[f"{key}_scale"].copy_(scales)
        U_bmn = P_bmr @ psi_brn.mul_(self.alpha * linalg.bias_correction(t, self.betas))
        return U_bmn, {"gap": state["gap"][:, None].float()}

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        if self.int8_weights:
            for _, role, parameter in named_roles(model):
                if role in self.matrices and parameter.ndim == 2 and not parameter.is_meta:
                    to_grid(parameter)
        return model

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        found = super().optimizers(model, seed)
        if self.int8_weights:
            found[0] = OnGrid(self, dense.split(model, self.matrices)[0], lr=self.lr, seed=seed)
        return found


class OnGrid(engine.MatrixOptimizer):
    """Writes updated weights back to 8-bit grids, up or down at random so that small updates count on the mean."""

    @torch.no_grad()
    def apply(self, stacks: Sequence[engine.Stack]) -> None:
        super().apply(stacks)
        for stack in stacks:
            for parameter, seed in zip(stack.parameters, stack.state["seed_b"].tolist(), strict=True):
                generator = linalg.generator(seed, self.t, parameter.device)
                dtype = linalg.arithmetic(parameter.dtype)
                to_grid(parameter, torch.rand(parameter.shape, generator=generator, device=parameter.device, dtype=dtype))


@torch.no_grad()
def to_grid(parameter: Tensor, noise: Tensor | float = 0.5) -> None:
    """Moves a weight to its 8-bit grid: 256 consecutive entries as stored share one."""
    W = parameter.to(linalg.arithmetic(parameter.dtype)).unsqueeze(0)
    parameter.copy_(quantisation.off_grid(*quantisation.on_grid(W, 8, BLOCK, noise), BLOCK)[0])
