"""ReLoRA: LoRA whose product is merged into the matrix and started anew, so that many low ranks add up.

Lialin et al. 2023, arXiv 2307.05695; released code Guitaricet/relora 176f376.

    LoRA: y = W0 x + (alpha/r) B A x
    every T updates: W0 <- W0 + (alpha/r) B A;  A Kaiming again, B = 0
    every C updates: Adam's moments of the factors reset, learning rate warmed up again under the cosine

Memory: as LoRA, 2r(m+n) and two step counters. Defaults: the released 250M recipe (r 128, alpha 32, lr 1e-3, merge 5000, restart
warm-up 100, clip 1); its dropout of 0.1 is a field here, 0 by default; GaLore's baseline merges every 200. Departures, code first:
"reset" prunes 99.9 % of the moments at random and keeps the rest (`reset: random`; here all are zeroed) and leaves the step counter
(`reset_steps`); A too is zero at the start (`dead_first_cycle`): both gradients are then exactly 0 until the first merge; the
restart aims at the cosine's value of another step (`released_restart`). Merging comes after update kT here, one later there; sums
are taken in fp32. The paper starts from a full-rank checkpoint of 5000 updates; without one W0 is the random start. Merged in bf16,
small products round away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from submissions import adapters, engine, holdings, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require


@dataclass(frozen=True, kw_only=True)
class Relora(AdapterSubmission):
    """High-rank training through low-rank updates."""

    clip: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    rank: int = 128
    """r, up to the short side of the smallest matrix."""
    alpha: float = 32.0
    """Numerator of the scale alpha/r."""
    dropout: float = 0.0
    """Probability that an input of the factors is dropped in training."""
    gap: int = 5000
    """T: updates from one merge to the next."""
    cycle: int | None = None
    """C: updates from one reset and restart to the next; null takes T."""
    restart_warmup: int = 100
    """Updates of the warm-up after a restart."""
    reset: Literal["zero", "random", "magnitude", "none"] = "zero"
    """Zero all moments, a random share of them, the share of smallest magnitude, or none."""
    pruned: float = 0.999
    """That share."""
    reset_steps: bool = False
    """Restart Adam's bias correction as well."""
    dead_first_cycle: bool = False
    """Start with A = 0 too, as the released code does."""
    released_restart: bool = False
    """Aim the restart's warm-up at the cosine of kC instead of the current update."""

    paper: ClassVar[str] = "Lialin et al. 2023, arXiv 2307.05695"
    memory: ClassVar[str] = "2*rank*(m + n) + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")
        require(self.gap >= 1, "gap", self.gap, "an integer of at least 1")
        require(self.cycle is None or self.cycle >= 1, "cycle", self.cycle, "an integer of at least 1, or null")
        require(self.restart_warmup >= 0, "restart_warmup", self.restart_warmup, "zero or more updates")
        require(0 <= self.pruned <= 1, "pruned", self.pruned, "a fraction in [0, 1]")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        def make(linear: nn.Linear, name: str) -> nn.Module:
            module = adapters.LowRank(linear, rank=self.rank, scale=self.alpha / self.rank, dropout=self.dropout)
            if not self.dead_first_cycle:
                adapters.fill_uniform(module.lora_a, linear.in_features**-0.5, seed, f"{name}.lora_a")
            return module

        return self.freeze_rest(adapters.replace(model, self.matrices, make))

    def lr_factor(self, t: int, steps: int) -> float:
        """The cosine with a warm-up at each restart: jagged."""
        length = self.cycle or self.gap
        k, s = (t - 1) // length, (t - 1) % length + 1
        rise = self.warmup * self.horizon * steps
        if k == 0 or t <= rise or s > self.restart_warmup:
            return super().lr_factor(t, steps)
        aim = round(rise + k * length) if self.released_restart else t
        return s / self.restart_warmup * super().lr_factor(aim, steps)

    def before_step(self, training: Training) -> None:
        if self.dropout:
            adapters.seed_dropout(training)

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        if training.t % self.gap == 0:
            for name, module in adapters.factored(training.model):
                assert module.weight is not None
                module.weight.copy_(module.effective())
                adapters.fill_uniform(module.lora_a, module.lora_a.shape[1] ** -0.5, training.seed, f"{name}.lora_a", training.t)
                module.lora_b.zero_()
        if training.t % (self.cycle or self.gap) == 0:
            self.forget(training)

    def forget(self, training: Training) -> None:
        """Resets the moments of the factors, which the first optimizer owns."""
        for number, tensor in enumerate(holdings.state_tensors(training.optimizers[0])):
            if tensor.ndim > 0 and self.reset != "none":
                tensor.mul_(self.kept(tensor, engine.seed_of(training.seed, f"prune {number}"), training.t))
        if self.reset_steps:
            adapters.restart_steps(training.optimizers[0])

    def kept(self, moment: Tensor, seed: int, t: int) -> Tensor:
        """1 where an entry survives the reset, 0 elsewhere."""
        if self.reset == "zero":
            return torch.zeros_like(moment)
        if self.reset == "random":
            return (torch.rand(moment.shape, generator=linalg.generator(seed, t)) >= self.pruned).to(moment)
        size = moment.abs().flatten().float()
        return (size >= size.sort().values[min(int(self.pruned * len(size)), len(size) - 1)]).view_as(moment).to(moment)
