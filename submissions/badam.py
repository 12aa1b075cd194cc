"""BAdam: Adam on one block at a time, each for K updates, with a fresh state.

Luo et al. 2024, arXiv 2404.02827; released code Ledzy/BAdam bf989dc (PyPI badam 1.4).

    blocks are the decoder layers (and embedding and head if asked); block i trains for K updates by AdamW from zero moments, then i + 1

Memory: 2mn and a step counter for each matrix of the active block, nothing for the others: the formula is the mean over the blocks;
with bf16 weights mn more for the block's fp32 copy, kept in the state. Defaults: the package's order (`descending`) and the paper's
K 100 (the code's is 50). Departures, the code's habit behind a switch: its first block gets only K - 1 updates (`short_first`).
Traps: embedding and head do not train unless asked for, which pre-training needs; without `embedding`, the package counts the
embedding to the head's block, and so does this; norms are decayed like matrices; `random` goes through a new permutation each
round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import blocks, dense, engine, linalg
from submissions.blocks import BlockSubmission
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class Badam(BlockSubmission):
    """Block coordinate Adam."""

    order: Literal["descending", "ascending", "random"] = "descending"
    """The last block first, the first block first, or a new permutation for each round."""
    embedding: bool = False
    """Make the embedding a block."""
    head: bool = False
    """Make head and final norm a block."""
    short_first: bool = False
    """Switch one update early, as the package does."""
    gap: int = 100
    """K: updates from one block to the next."""

    paper: ClassVar[str] = "Luo et al. 2024, arXiv 2404.02827"
    memory: ClassVar[str] = "(2*m*n + 1)/(layers + embedding + head)"

    def period(self, t: int) -> int:
        return (t if self.short_first else t - 1) // self.gap

    def selected(self, model: nn.Module, seed: int, period: int) -> list[Named]:
        found = self.blocks(model)
        turn, place = divmod(period, len(found))
        if self.order == "random":
            place = int(torch.randperm(len(found), generator=linalg.generator(engine.seed_of(seed, "blocks"), turn))[place])
        return found[-1 - place if self.order == "descending" else place]

    def blocks(self, model: nn.Module) -> list[list[Named]]:
        """The blocks in the model's order."""
        layers = blocks.layers(model)
        embeddings = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Embedding)] if self.embedding else []
        first = [blocks.inside(model, embeddings)] if self.embedding else []
        last = [blocks.outside(model, [*layers, *embeddings])] if self.head else []
        return [*first, *(blocks.inside(model, [prefix]) for prefix in layers), *last]

    def own(self, active: Sequence[Named], seed: int) -> list[Optimizer]:
        if any(member.parameter.dtype == torch.bfloat16 for member in active):
            return [MasterAdam(active, self, seed)]
        return [self.adam(active, self.lr, seed)]


class MasterAdam(dense.ExactState):
    """AdamW on fp32 copies of bf16 parameters; a copy is state, and its rounding is the parameter."""

    def __init__(self, members: Sequence[Named], rule: Badam, seed: int) -> None:
        super().__init__([member.parameter for member in members], {"lr": rule.lr})
        self.rule, self.seed = rule, engine.seed_of(seed, members[0].name)
        for parameter in self.param_groups[0]["params"]:
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            moments = {key: dense.stored(zeros.clone(), rule.state_dtype, self.seed) for key in "mv"}
            self.state[parameter] = {"master": parameter.detach().float(), **moments, "step": torch.zeros(())}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the runner owns the backward pass
        lr = self.param_groups[0]["lr"]
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            state: dict[str, Tensor] = self.state[parameter]
            m, v = state["m"].float(), state["v"].float()  # themselves, unless they are kept in bf16
            state["step"] += 1
            t = int(state["step"])
            state["master"].mul_(1 - lr * self.rule.weight_decay)
            eps = self.rule.eps * (1 - self.rule.betas[1] ** t) ** 0.5
            psi = linalg.adam(parameter.grad.float(), m, v, self.rule.betas, eps)
            state["master"].add_(psi, alpha=-lr * linalg.bias_correction(t, self.rule.betas))
            parameter.copy_(state["master"])
            draw = self.seed + 1_000_003 * t + 2 * number
            state["m"] = dense.stored(m, self.rule.state_dtype, draw)
            state["v"] = dense.stored(v, self.rule.state_dtype, draw + 1)
