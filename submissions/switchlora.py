"""SwitchLoRA: LoRA whose vectors are swapped, a few at every update, with candidates, so that the product wanders through many subspaces.

Zhou et al. 2024, arXiv 2406.06564; released code asfsdsf/SwitchLoRA f9a174e.

    y = W x + (alpha/r) B A x;  candidates: min(m,n) vectors of the shape of B's columns, as many of A's rows
    interval(t) = 40 * 0.3^(-t / (0.1 T));  each update about r / interval(t) columns of B, and as many rows of A, in turn:
        W <- W + (alpha/r) (b - b') a^T, candidate <- b, column <- b'         (the matrix in use does not change)
        the partner a: Adam's moments and step count <- 0, and frozen for N updates

Memory: 2r(m+n) and a step count and a waiting time for each of the 2r vectors; the model keeps W, the factors and min(m,n)(m+n)
candidates (in the released code on the CPU). Uniform start: std_A = (sqrt(m) r / n^1.5)^(1/4) sqrt(g), std_B = (r / sqrt(mn))^(1/4)
sqrt(g), g the gain of a leaky ReLU of slope sqrt 5. Defaults: the 350M script (lr 0.02, r 256, alpha 1, interval 40, ratio 0.1, N
5). Departures: how many swap is the schedule's integral, where the code draws the fraction; A's turn starts r/2 behind B's, so that
no update swaps both partners; randomness is a function of the seed. Traps: alpha = 1 makes the scale 1/r, hence the large rate;
intervals below 2N updates are refused, as in the code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import adapters, dense, engine, linalg
from submissions.adapters import AdapterSubmission, LowRank
from submissions.base import Training, require
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class Switchlora(AdapterSubmission):
    """LoRA with switching vectors."""

    lr: float = 2e-2
    """Peak learning rate."""
    rank: int = 256
    """r, up to the short side of the smallest matrix."""
    alpha: float = 1.0
    """Numerator of the scale alpha/r."""
    interval: float = 40.0
    """Updates between two swaps of the same vector, at the start."""
    fade: float = 0.1
    """Share of the step budget in which the interval grows by a factor of 1/0.3; it goes on growing so."""
    freeze: int = 5
    """N: updates for which the partner of a swapped vector waits."""

    paper: ClassVar[str] = "Zhou et al. 2024, arXiv 2406.06564"
    memory: ClassVar[str] = "2*rank*(m + n) + 4*rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(self.freeze >= 0, "freeze", self.freeze, "zero or more updates")
        require(self.interval >= max(1, 2 * self.freeze), "interval", self.interval, f"at least 2 freeze = {2 * self.freeze}")
        require(self.fade > 0, "fade", self.fade, "a positive share of the steps")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        return self.freeze_rest(adapters.replace(model, self.matrices, lambda linear, name: Switching(linear, self, seed, name)))

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        factors, others = adapters.split(model, self.matrices)
        found: list[Optimizer] = [VectorAdam(factors, self, seed)]
        return [*found, self.adam(others, self.dense_lr or self.lr, seed)] if others else found

    def swaps(self, t: int, steps: int) -> int:
        """Vectors of a factor swapped in updates 1 to t: r times the integral of 1 / interval."""
        unit = self.fade * steps / -math.log(0.3)
        return int(self.rank / self.interval * unit * (1 - math.exp(-t / unit)))

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        optimizer = training.optimizers[0]
        assert isinstance(optimizer, VectorAdam)
        turns = range(self.swaps(training.t - 1, training.steps), self.swaps(training.t, training.steps))
        for module in training.model.modules():
            if isinstance(module, Switching):
                for turn in turns:
                    optimizer.hold(module.lora_a, module.switch_b(turn))
                    optimizer.hold(module.lora_b, module.switch_a(turn))


class Switching(LowRank):
    """A low-rank module with candidates for its vectors."""

    spare_a: Tensor
    spare_b: Tensor

    def __init__(self, linear: nn.Linear, rule: Switchlora, seed: int, name: str) -> None:
        super().__init__(linear, rank=rule.rank, scale=rule.alpha / rule.rank)
        m, n = linear.weight.shape
        self.register_buffer("spare_a", linear.weight.new_zeros(min(m, n), n))
        self.register_buffer("spare_b", linear.weight.new_zeros(m, min(m, n)))
        root_gain = (2 / (1 + 5)) ** 0.25
        bounds = {"a": (m**0.5 * rule.rank / n**1.5) ** 0.25, "b": (rule.rank / (m * n) ** 0.5) ** 0.25}
        for factor, std in bounds.items():
            for part in (f"lora_{factor}", f"spare_{factor}"):
                adapters.fill_uniform(getattr(self, part), 3**0.5 * std * root_gain, seed, f"{name}.{part}")

    def switch_b(self, turn: int) -> int:
        """Swaps a column of B with a candidate, at the same W in use; its number."""
        i, j = turn % self.lora_b.shape[1], turn % self.spare_b.shape[1]
        self.merge(torch.outer(self.lora_b[:, i] - self.spare_b[:, j], self.lora_a[i]))
        old = self.lora_b[:, i].clone()
        self.lora_b[:, i] = self.spare_b[:, j]
        self.spare_b[:, j] = old
        return i

    def switch_a(self, turn: int) -> int:
        """Swaps a row of A with a candidate, at the same W in use; its number."""
        rank = len(self.lora_a)
        i, j = (turn + rank // 2) % rank, turn % len(self.spare_a)
        self.merge(torch.outer(self.lora_b[:, i], self.lora_a[i] - self.spare_a[j]))
        old = self.lora_a[i].clone()
        self.lora_a[i] = self.spare_a[j]
        self.spare_a[j] = old
        return i

    def merge(self, difference: Tensor) -> None:
        assert self.weight is not None
        self.weight.add_(difference, alpha=self.scale)


class VectorAdam(dense.ExactState):
    """Adam of low-rank factors with a step count for each vector: a row of A, a column of B."""

    def __init__(self, members: Sequence[Named], rule: Switchlora, seed: int) -> None:
        super().__init__([member.parameter for member in members], {"lr": rule.lr, "t": 0})
        self.rule, self.seed = rule, engine.seed_of(seed, "factors")
        for member in members:
            p, rank = member.parameter, rule.rank
            along = (rank, 1) if member.name.endswith("lora_a") else (1, rank)
            zeros = torch.zeros_like(p, dtype=linalg.arithmetic(p.dtype))
            self.state[p] = {key: dense.stored(zeros.clone(), rule.state_dtype, self.seed) for key in "mv"}
            self.state[p] |= {name: torch.zeros(along, device=p.device) for name in ("steps", "wait")}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the runner owns the backward pass
        rule, group = self.rule, self.param_groups[0]
        group["t"] += 1
        lr, draw = group["lr"], self.seed + 1_000_003 * group["t"]
        for number, parameter in enumerate(group["params"]):
            state: dict[str, Tensor] = self.state[parameter]
            G = parameter.grad.to(linalg.arithmetic(parameter.dtype))
            m, v = state["m"].to(G), state["v"].to(G)  # themselves, unless they are kept in bf16
            awake = (state["wait"] == 0).to(G)
            state["steps"].add_(awake)
            m.lerp_(G, (1 - rule.betas[0]) * awake)
            v.lerp_(G * G, (1 - rule.betas[1]) * awake)
            t = state["steps"].clamp(min=1).to(G)
            direction = m / (1 - rule.betas[0] ** t) / ((v / (1 - rule.betas[1] ** t)).sqrt() + rule.eps)
            parameter.mul_(1 - lr * rule.weight_decay * awake).sub_(lr * awake * direction)
            state["wait"].sub_(1).clamp_(min=0)
            state["m"] = dense.stored(m, rule.state_dtype, draw + 2 * number)
            state["v"] = dense.stored(v, rule.state_dtype, draw + 2 * number + 1)

    def hold(self, parameter: Tensor, number: int) -> None:
        """Forgets what is known of one vector and freezes it for N updates."""
        state = self.state[parameter]
        dimension = 0 if state["steps"].shape[1] == 1 else 1
        for tensor in (state["m"], state["v"], state["steps"]):
            tensor.select(dimension, number).zero_()
        state["wait"].select(dimension, number).fill_(self.rule.freeze)
