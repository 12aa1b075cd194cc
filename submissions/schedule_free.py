"""Schedule-free AdamW: averaging in place of a decaying learning rate.

Defazio et al. 2024, arXiv 2405.15682; released code facebookresearch/schedule_free; compared with pytorch_optimizer 4.1.0.
y is trained, x is evaluated:

    v <- b2 v + (1-b2) G(y)^2;  D = G / (sqrt(v_hat) + eps) + wd y;  z <- z - lr D
    c = w_t / (w_1 + ... + w_t), w_t = t^r (largest lr so far)^p;  x <- (1-c) x + c z;  y <- (1-b1) z + b1 x

Memory: 2mn (z, v, in fp32 also for bf16 weights): y stands in the weights; x = (y - (1-b1) z) / b1 is
formed for an evaluation, for whose length y is kept aside.
Defaults: the released ones (lr 2.5e-3, b1 0.9, r = 0, p = 2); the schedule is a constant after its warm-up, as the method wants.
Trap: evaluating y, not x, hides the method's gain.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg, pieces
from submissions.base import Submission, Training, named_roles, require


class ScheduleFreeAdamW(dense.ByParameter, dense.ExactState):
    """The rule, on parameters of any shape."""

    def __init__(self, parameters: Sequence[nn.Parameter], rule: ScheduleFree) -> None:
        defaults = {"lr": rule.lr, "t": 0, "lr_max": 0.0, "weight_sum": 0.0, "c": 0.0}
        super().__init__(parameters, defaults)
        self.rule = rule
        for parameter in parameters:
            z = parameter.detach().to(linalg.arithmetic(parameter.dtype), copy=True)
            self.state[parameter] = {"z": z, "v": torch.zeros_like(z)}

    def advance(self) -> None:
        group, rule = self.param_groups[0], self.rule
        group["t"] += 1
        group["lr_max"] = max(group["lr_max"], group["lr"])
        weight = group["t"] ** rule.r * group["lr_max"] ** rule.weight_lr_power
        group["weight_sum"] += weight
        group["c"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    @torch.no_grad()
    def apply(self) -> None:
        ready = [parameter for parameter in self.param_groups[0]["params"] if parameter.grad is not None]
        gradients = [parameter.grad for parameter in ready]
        states = ([self.state[parameter][key] for parameter in ready] for key in ("z", "v"))
        for W, gradient, z, v in pieces.batches(ready, gradients, *states):
            y = [parameter.to(own.dtype) for parameter, own in zip(W, z, strict=True)]  # itself, unless it is bf16
            G = [part.to(own.dtype) for part, own in zip(gradient, z, strict=True)]
            self.update(y, z, v, G)
            for parameter, own in zip(W, y, strict=True):
                if parameter.dtype != own.dtype:
                    parameter.copy_(own)

    def update(self, y: list[Tensor], z: list[Tensor], v: list[Tensor], G: list[Tensor]) -> None:
        """y, z and v at the current step, in place."""
        group, rule = self.param_groups[0], self.rule
        c = group["c"]
        torch._foreach_mul_(v, rule.betas[1])
        torch._foreach_addcmul_(v, G, G, 1 - rule.betas[1])
        D = torch._foreach_sqrt(v)
        torch._foreach_div_(D, math.sqrt(1 - rule.betas[1] ** group["t"]))
        torch._foreach_add_(D, rule.eps)
        D = torch._foreach_div(G, D)
        if rule.weight_decay:
            torch._foreach_add_(D, y, alpha=rule.weight_decay)
        torch._foreach_lerp_(y, z, c)  # z and x both move by their share of -lr D, and y between them
        torch._foreach_add_(y, D, alpha=group["lr"] * (rule.betas[0] * (1 - c) - 1))
        torch._foreach_add_(z, D, alpha=-group["lr"])


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(Submission):
    """AdamW whose evaluated weights are an average."""

    lr: float = 2.5e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    """Shape of the learning rate after warm-up; the method is meant for `constant`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """b1 interpolates between z (0) and the average x (1); b2 decays the second moment."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """Decoupled decay at y, relative to the learning rate."""
    r: float = 0.0
    """Later iterates weigh t^r in the average."""
    weight_lr_power: float = 2.0
    """p: and the largest learning rate so far to this power."""

    paper: ClassVar[str] = "Defazio et al. 2024, arXiv 2405.15682"
    kind: ClassVar[Literal["full-rank"]] = "full-rank"
    memory: ClassVar[str] = "2*m*n"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.betas[0] < 1, "betas", self.betas, "a first number in (0, 1): x is recovered by dividing by it")
        require(0 <= self.betas[1] < 1, "betas", self.betas, "a second number in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(self.weight_lr_power >= 0, "weight_lr_power", self.weight_lr_power, "zero or more")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return [ScheduleFreeAdamW([parameter for _, _, parameter in named_roles(model)], self)]

    @contextlib.contextmanager
    def for_eval(self, training: Training) -> Iterator[None]:
        (optimizer,) = training.optimizers
        assert isinstance(optimizer, ScheduleFreeAdamW)
        y = optimizer.param_groups[0]["params"]
        aside = [parameter.detach().clone() for parameter in y]  # undoing the interpolation would not give the same bits
        with torch.no_grad():
            for parameter in y:
                z = optimizer.state[parameter]["z"]
                parameter.copy_(parameter.to(z.dtype).lerp(z, 1 - 1 / self.betas[0]))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(y, aside)
