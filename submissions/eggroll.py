"""EGGROLL: an evolution strategy whose perturbations are low-rank; forward passes only.

Sarkar et al. 2025, arXiv 2511.16652; released code ESHyperscale/HyperscaleES b77f7d6 (JAX).

    member i = 1..N, in antithetic pairs:  W_i = W +- sigma / sqrt(r) A_i B_i^T,  A m x r, B n x r ~ N(0, 1) from (seed, t, name)
    f_i = -loss(W_i), standardised over the members;  gradient = -sqrt(N) / N sum_i f_i (W_i - W);  then SGD or Adam takes it

Memory: none with SGD, Adam's 2mn + 1 else; while a step lasts, N r (m + n) / 2 for the factors and a copy of the weights. Vectors are
perturbed in full. Defaults: r = 1 and SGD as released; N and sigma are ours, for small models. `clip` acts on the estimate.
It needs a longer budget than the others: a LLaMA with one layer of 16 gets below a unigram's loss in 900 updates of 32 members.
Traps: one update costs N forward passes, so compare on a clock or in forward passes, not in steps; the noise of the estimate grows with the
number of parameters over N; in bf16 a small sigma is rounded away; the loss on record is the members' mean, not that of W.
Shapes: m = out, n = in, p pairs, r rank.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg
from submissions.base import Submission, Training, named_roles, require
from submissions.engine import seed_of


@dataclass(frozen=True, kw_only=True)
class Eggroll(Submission):
    """Low-rank evolution strategy."""

    lr: float = 1.0
    """Peak learning rate of the estimated gradient, whose entries are about sigma large."""
    members: int = 64
    """N: forward passes per update, even."""
    sigma: float = 0.01
    """Standard deviation of a perturbed entry."""
    rank: int = 1
    """r: rank of each perturbation."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """What takes the estimated gradient."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""

    paper: ClassVar[str] = "Sarkar et al. 2025, arXiv 2511.16652"
    kind: ClassVar[Literal["other"]] = "other"
    memory: ClassVar[str] = "0 if optimizer == 'sgd' else 2*m*n + 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.members >= 2 and self.members % 2 == 0, "members", self.members, "an even integer of at least 2")
        require(self.sigma > 0, "sigma", self.sigma, "a positive number")
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        members = dense.trainable(model)
        if self.optimizer == "sgd":
            return [torch.optim.SGD([member.parameter for member in members], lr=self.lr, fused=True)]
        return [dense.adam(members, lr=self.lr, betas=self.betas, eps=1e-8, weight_decay=0.0, decay="before")]

    @torch.no_grad()
    def train_step(self, training: Training, batch: Any) -> Tensor:
        noise = [
            (parameter, parameter.detach().clone(), *self.factors(parameter, name, training.seed, training.t))
            for name, _, parameter in named_roles(training.model)
        ]
        losses = []
        for pair in range(self.members // 2):
            for sign in (1.0, -1.0):
                for W, centre, A_pmr, B_pnr in noise:
                    W.copy_(centre.add(product(A_pmr[pair], B_pnr[pair]).view_as(W), alpha=sign * self.scale(W)))
                losses.append(training.loss(batch))
        loss_ps = torch.stack(losses).float().view(-1, 2)
        f_p = self.weights(loss_ps)
        for W, centre, A_pmr, B_pnr in noise:
            W.copy_(centre)
            weight_p = f_p.to(A_pmr) * self.scale(W)
            W.grad = (
                product((A_pmr * weight_p[:, None, None]).movedim(0, 1).flatten(1), B_pnr.movedim(0, 1).flatten(1)).view_as(W).to(W.dtype)
            )
        return loss_ps.mean()

    def weights(self, loss_ps: Tensor) -> Tensor:
        """What each pair's direction counts in the gradient, from the losses of its two members."""
        standard_ps = (loss_ps - loss_ps.mean()) / loss_ps.std(correction=0).clamp_min(1e-8)
        return (standard_ps[:, 0] - standard_ps[:, 1]) / math.sqrt(self.members)

    def scale(self, W: Tensor) -> float:
        """sigma over the standard deviation of an entry of A B^T; a vector's noise is not a product."""
        return self.sigma / math.sqrt(self.rank) if W.ndim == 2 else self.sigma

    def factors(self, W: Tensor, name: str, seed: int, t: int) -> tuple[Tensor, Tensor]:
        """A_pmr and B_pnr of all pairs; a vector is an m x 1 matrix of full rank, with B = 1."""
        generator = None if W.is_meta else linalg.generator(seed_of(seed, name), t, W.device)
        draw = functools.partial(torch.randn, generator=generator, device=W.device)
        pairs = self.members // 2
        if W.ndim != 2:
            return draw(pairs, W.numel(), 1).to(W.dtype), W.new_ones(pairs, 1, 1)
        m, n = W.shape
        return draw(pairs, m, self.rank).to(W.dtype), draw(pairs, n, self.rank).to(W.dtype)


def product(A_mr: Tensor, B_nr: Tensor) -> Tensor:
    """A B^T."""
    return A_mr @ B_nr.mT
