"""One attempt at a trial: the training loop, its clock, and what it writes.

The order of a step is: batch, gradient, clipping, update, then, at measuring points only, the losses of the window are
read from the device. Everything random is seeded by (seed, step), so a resumed attempt repeats the uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from runner import activity, checkpoint, compilation, layerwise, memory, probes, rates, sharding
from runner.clock import OFF, Clock
from runner.devices import Group, Silent
from runner.feed import Feed, GlobalBatch
from runner.probes import Collector
from runner.record import Line, Point, Status, Writer
from runner.shadow import Observer
from runner.trial import Trial
from submissions import engine
from submissions.base import Submission, Training
from workloads.base import Data, Workload

EVALUATION, CHECKPOINT, RECORD, SHADOW = f"{OFF}evaluation", f"{OFF}checkpoint", f"{OFF}record", f"{OFF}shadow"


def seed_everything(seed: int, device: torch.device) -> None:
    """Seeds the default generators in use (dropout); `torch.manual_seed` would queue a call for GPUs that are not there."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@dataclass
class Attempt:
    """The live objects of a trial and where it stands."""

    trial: Trial
    workload: Workload
    submission: Submission
    data: Data
    device: torch.device
    training: Training
    clock: Clock
    writer: Writer | Silent
    checkpoint_path: Path
    checkpoint_seconds: float
    interrupted: Callable[[], bool]
    group: Group = field(default_factory=Group)
    losses: list[Tensor] = field(default_factory=list)
    """Mean losses since the last measuring point, still on the device."""
    probes: Collector = field(default_factory=Collector)
    matrices: dict[int, str] = field(default_factory=dict)
    """Names of the layers' matrices by the `id` of their parameter: those of which a full-rank Adam hands out phi."""
    observer: Observer | None = None
    owners: list[tuple[Tensor, int]] = field(default_factory=list)
    """The rank that updates each weight, if the optimizers' state is divided."""
    reached: dict[str, float] | None = None
    lost_seconds: float = 0.0
    reason: str | None = None
    feed: Feed = field(init=False)
    activations: int | None = None
    """Bytes kept for the backward pass; None if that was not measured."""
    saved_at: float = 0.0
    """On-clock seconds at the last checkpoint."""

    def __post_init__(self) -> None:
        self.feed = Feed(self.batch, self.device, last=self.workload.budget.steps)

    @property
    def window(self) -> int:
        """Steps between two readings of the loss."""
        return max(1, self.workload.evaluate_every // 10)

    @property
    def tokens(self) -> int:
        return self.training.t * self.workload.batch.tokens

    def run(self) -> Status:
        """Trains until the target, the end of a budget, divergence or an interruption."""
        self._attach()
        with contextlib.closing(self.feed):
            return self._train(self.workload.budget.steps)

    def _train(self, steps: int) -> Status:
        while self.training.t < steps:
            self.step()
            if self.training.t == 1:  # a state that cannot be kept ends the trial here, not after hours
                with self.clock.part(CHECKPOINT):
                    checkpoint.check(self.training)
            last = self.training.t == steps
            measuring = last or self.training.t % self.window == 0 or self.training.t % self.workload.evaluate_every == 0
            if measuring and (status := self.measure(last)):
                return status
            # Several processes must agree, which costs a round trip: they ask at measuring points only.
            if (self.group.world == 1 or measuring) and (status := self.pause()):
                return status
        return self._verdict(f"the target was not reached within {steps} steps")

    def pause(self) -> Status | None:
        """Checkpoints if it is time to; ends the attempt if that was asked for."""
        if self.group.any(self.interrupted()):
            self.save()
            self.reason = f"stopped from outside after step {self.training.t}; running the trial again goes on from there"
            return "preempted"
        (due,) = self.group.agree(self.clock.total() - self.saved_at > self.checkpoint_seconds)
        if due:
            self.save()
        return None

    def step(self) -> None:
        """One update, on the clock."""
        training, part = self.training, self.clock.part
        training.t += 1
        rank = f" rank {self.group.rank}" if self.group.rank else ""
        seed_everything(engine.seed_of(self.trial.seed, f"step {training.t}{rank}"), self.device)
        with part("data"):
            batch = self.feed.batch(training.t)
        with part("forward_backward"):
            self.submission.before_step(training)
            if self.workload.compile:
                compilation.cover(self.workload.compilable(training.model))
            self._prepare_update()
            self.losses.append(self.submission.train_step(training, batch))
            if self.submission.clip is not None:
                clip_grad_norm_(training.model.parameters(), self.submission.clip)
        if self.observer is not None:
            with part(SHADOW):
                self.observer.observe(training.t, self.probes if training.probe else None)
        with part("update"):
            if not self.workload.layerwise:
                for optimizer in training.optimizers:
                    optimizer.step()
                sharding.send(self.owners)
                if training.probe is not None:
                    with part(probes.PART):
                        for found, names in probes.of_adam(training.optimizers, self.matrices):
                            training.probe(found, names)
                training.model.zero_grad(set_to_none=True)
            self.submission.after_step(training)

    def _prepare_update(self) -> None:
        """Learning rates and probes of the coming update."""
        training = self.training
        rates.assign(training.optimizers, self.submission.lr_factor(training.t, training.steps))
        collect = self.trial.probes_every is not None and training.t % self.trial.probes_every == 0
        self.probes.step = training.t
        training.probe = self.probes if collect else None
        for optimizer in training.optimizers:
            if isinstance(optimizer, engine.MatrixOptimizer):
                optimizer.probe, optimizer.part = training.probe, self.clock.part
        if self.workload.layerwise:
            layerwise.begin(training.optimizers)

    def measure(self, last: bool) -> Status | None:
        """Reads the window's losses, evaluates where the grid says so, and tells whether the trial ends here."""
        with self.clock.part(RECORD):
            self._record_losses()
        if self.reason is not None:
            return "diverged"
        (late,) = self.group.agree(self.clock.total() > self.workload.budget.seconds)
        due = late or last or self.training.t % self.workload.evaluate_every == 0
        if due and (status := self.evaluate(bool(late))):
            return status
        if late:
            return self._verdict(f"the time budget of {self.workload.budget.seconds:g} s was used up at step {self.training.t}")
        return None

    def evaluate(self, late: bool) -> Status | None:
        """Records the validation metrics; `late` ones, after the time budget, can no longer reach the target."""
        metrics = self._measured(self.workload.evaluate)
        seconds = self.clock.total()
        with self.clock.part(RECORD):
            self._write([self._point(name, value, seconds) for name, value in metrics.items()], seconds)
        target = self.workload.target
        if target is None:
            return None
        (value,) = self.group.agree(metrics[target.metric])
        if math.isnan(value):
            self.reason = f"{target.metric} is NaN at step {self.training.t}"
            return "diverged"
        if self.reached is None and not late and target.reached_by(value):
            self.reached = {"step": self.training.t, "seconds": seconds, "value": value}
            if self.trial.stop == "target":
                return self._verdict("")
        return None

    def conclude(self) -> None:
        """Records what the workload measures once, at the end."""
        metrics = self._measured(self.workload.conclude)
        seconds = self.clock.total()
        self._write([self._point(name, value, seconds) for name, value in metrics.items()], seconds)

    def _measured(self, measure: Callable[[nn.Module, Data, torch.device], dict[str, float]]) -> dict[str, float]:
        """What `measure` finds, off the clock, in the weights that the submission has evaluated."""
        with ExitStack() as scope:
            with self.clock.part("update"):  # averaging and the like are the submission's own work
                scope.enter_context(self.submission.for_eval(self.training))
            if not self.group.rank:
                scope.enter_context(activity.shown(self.checkpoint_path.with_suffix(activity.SUFFIX)))
            with self.clock.part(EVALUATION):
                return measure(self.training.model, self.data, self.device)

    def save(self) -> None:
        """Writes a checkpoint, off the clock."""
        self.saved_at = self.clock.total()
        with self.clock.part(CHECKPOINT):
            checkpoint.check(self.training)
            content = checkpoint.content_of(self)
            if not self.group.rank:
                checkpoint.save(self.checkpoint_path, content)

    def _attach(self) -> None:
        """Gives the submission's hooks their forward and backward passes."""
        if self.workload.layerwise:
            layerwise.install(self.training.optimizers, self.group, self.clock.part)
        self.training.backward = self._backward
        self.training.loss = self._loss

    def batch(self, step: int) -> GlobalBatch:
        """This rank's share of the batch of a step (from 1)."""
        seed, shape = self.trial.seed, self.workload.batch
        micro = list(self.data.micro_batches(seed, step, shape, self.device, rank=self.group.rank, world=self.group.world))
        return GlobalBatch(micro, self.data.target_tokens(seed, step, shape))

    def _backward(self, batch: GlobalBatch) -> Tensor:
        total = torch.zeros((), device=self.device)
        for micro in batch.micro:
            loss, _ = self.workload.loss(self.training.model, micro)
            loss = loss / batch.tokens
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += loss.detach()
        if not self.workload.layerwise:
            self.group.sum_gradients(self.training.model.parameters())
        return self.group.sum(total)

    @torch.no_grad()
    def _loss(self, batch: GlobalBatch) -> Tensor:
        losses = [self.workload.loss(self.training.model, micro)[0] for micro in batch.micro]
        return self.group.sum(torch.stack(losses).sum() / batch.tokens)

    def _record_losses(self) -> None:
        seconds = self.clock.total()
        values = torch.stack(self.losses).tolist()
        self.losses.clear()
        points = [self._point("train_loss", sum(values) / len(values), seconds)]
        self._write(points, seconds)
        worst = max(values, key=lambda value: math.inf if math.isnan(value) else value)
        if not math.isfinite(worst) or worst > self.workload.diverged_above:
            limit = self.workload.diverged_above
            self.reason = f"training loss {worst:g} by step {self.training.t}; finite and at most {limit:g} nats per token was expected"

    def _write(self, points: list[Point], seconds: float) -> None:
        lines: list[Line] = [*self.probes.flush(seconds, self.tokens), *points]
        self.writer.write(*lines)

    def _point(self, name: str, value: float, seconds: float) -> Point:
        return Point(step=self.training.t, seconds=seconds, tokens=self.tokens, name=name, value=value)

    def _verdict(self, missed: str) -> Status:
        if self.reached is not None:
            return "reached"
        self.reason = missed if self.workload.target is not None else f"the workload has no target; {missed}"
        return "missed"

    def bytes(self) -> dict[str, float]:
        """Memory by part at the end of the attempt."""
        parts = memory.static(self.workload, self.training)
        kept = {} if self.activations is None else {"activations": self.activations}
        return {**parts, **kept, "peak": memory.peak(self.device)}
