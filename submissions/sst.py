"""SST: sparse spectral training of W = U diag(S) V^T, all singular values and a few pairs of singular vectors at a time.

Zhao et al. 2024, arXiv 2405.15481 (ICML 2025), from public notes on the paper; its code was not available.

    U, S, V = SVD of W0
    each update: S by Adam, then S <- max(S, 0)
    each T updates (an iteration): draw r indices I ~ Multinomial(S), train only U_I and V_I
        with the enhanced gradient dL/dU_i = (dL/dW) V_i, dL/dV_i = (dL/dW)^T U_i, which have no factor S_i;
        columns back to unit norm after each update; moments and step counts of U_I, V_I and S start from zero
    each ceil(m/r) iterations (a round): SVD of W anew

Memory: 2(r(m+n) + m) and three step counters; the model keeps U and V whole, m(m+n) + m, up to twice W for a square matrix, and a
copy of the r pairs in training. Defaults: r 64 (its OPT-125M), T 200 (from memory); lr is ours. Traps: neither an iteration nor a
round changes W (the SVD to rounding); the reported memory advantage counts trained parameters; rescaling U_i to unit norm discards
what the update added along U_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import adapters, engine, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require


@dataclass(frozen=True, kw_only=True)
class Sst(AdapterSubmission):
    """Sparse spectral training."""

    rank: int = 64
    """r: pairs of singular vectors in training, up to the short side of the smallest matrix."""
    gap: int = 200
    """T: updates of an iteration."""

    paper: ClassVar[str] = "Zhao et al. 2024, arXiv 2405.15481"
    memory: ClassVar[str] = "2*(rank*(m + n) + m) + 3"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = Spectral(linear, self.rank)
            module.choose(engine.seed_of(seed, name), 0)
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        iteration, within = divmod(training.t, self.gap)
        for name, module in training.model.named_modules():
            if not isinstance(module, Spectral):
                continue
            module.retract()
            if within == 0:
                module.put_back()
                if iteration % math.ceil(len(module.sigma) / self.rank) == 0:
                    module.decompose(module.effective())
                module.choose(engine.seed_of(training.seed, name), iteration)
        if within == 0:
            adapters.forget(training.optimizers[0])


class Spectral(nn.Module):
    """y = x (U diag(S) V^T)^T + bias, with columns `index` of U and V held by the parameters u and v."""

    U_mb: Tensor
    V_nb: Tensor
    index: Tensor

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        rank = linalg.rank_of(linear.weight, rank)
        outputs, inputs = linear.weight.shape
        self.role, self.bias = linear.role, linear.bias
        zeros, short = linear.weight.new_zeros, min(outputs, inputs)
        self.sigma, self.u, self.v = nn.Parameter(zeros(short)), nn.Parameter(zeros(outputs, rank)), nn.Parameter(zeros(inputs, rank))
        self.register_buffer("U_mb", zeros(outputs, short))
        self.register_buffer("V_nb", zeros(inputs, short))
        self.register_buffer("index", torch.arange(rank, device=linear.weight.device))
        self.decompose(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        U_mb, V_nb = self.vectors()
        y: Tensor = _Enhanced.apply(x, self.u, self.v, self.sigma, U_mb, V_nb, self.index)  # type: ignore[no-untyped-call]  # in torch
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """U and V as they are now."""
        return self.U_mb.index_copy(1, self.index, self.u), self.V_nb.index_copy(1, self.index, self.v)

    @torch.no_grad()
    def effective(self) -> Tensor:
        """W_mn in the arithmetic's dtype."""
        dtype = linalg.arithmetic(self.sigma.dtype)
        U_mb, V_nb = self.vectors()
        return (U_mb.to(dtype) * self.sigma.to(dtype)) @ V_nb.to(dtype).mT

    @torch.no_grad()
    def decompose(self, W_mn: Tensor) -> None:
        """U, S, V of W."""
        if not W_mn.is_meta:
            U_mb, sigma, Vt_bn = torch.linalg.svd(W_mn.to(linalg.arithmetic(W_mn.dtype)), full_matrices=False)
            self.U_mb.copy_(U_mb)
            self.V_nb.copy_(Vt_bn.mT)
            self.sigma.copy_(sigma)

    @torch.no_grad()
    def choose(self, seed: int, iteration: int) -> None:
        """Draws the pairs to train and takes them into the parameters."""
        if self.sigma.is_meta:
            return
        chances = self.sigma.float().cpu() + 1e-8  # vanished singular values can still fill up the draw
        drawn = torch.multinomial(chances, len(self.index), generator=linalg.generator(seed, iteration))
        self.index.copy_(drawn.sort().values)
        self.u.copy_(self.U_mb[:, self.index])
        self.v.copy_(self.V_nb[:, self.index])

    @torch.no_grad()
    def put_back(self) -> None:
        """Returns the trained pairs to U and V."""
        for whole, part in zip((self.U_mb, self.V_nb), self.vectors(), strict=True):
            whole.copy_(part)

    @torch.no_grad()
    def retract(self) -> None:
        """Singular values not below zero, vectors of unit norm."""
        self.sigma.clamp_(min=0)
        for vectors in (self.u, self.v):
            vectors.div_(vectors.norm(dim=0).clamp_min(1e-12))


class _Enhanced(torch.autograd.Function):
    """x W^T whose gradients for u and v leave out the singular values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, v: Tensor, sigma: Tensor, U_mb: Tensor, V_nb: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, sigma, U_mb, V_nb, index)
        return F.linear((x @ V_nb) * sigma, U_mb)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, sigma, U_mb, V_nb, index = ctx.saved_tensors
        (dy,) = outputs
        dW_mn = dy.flatten(0, -2).mT @ x.flatten(0, -2)
        du, dv = dW_mn @ V_nb[:, index], dW_mn.mT @ U_mb[:, index]
        dx = ((dy @ U_mb) * sigma) @ V_nb.mT if ctx.needs_input_grad[0] else None
        return dx, du, dv, (U_mb * (dW_mn @ V_nb)).sum(0), None, None, None
