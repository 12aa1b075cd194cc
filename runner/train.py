"""From a trial to its record: builds what it names, resumes if there is a checkpoint, trains, and writes how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from runner import (
    brackets,
    catalog,
    checkpoint,
    compilation,
    composition,
    faults,
    layerwise,
    memory,
    observation,
    record,
    resumption,
    sharding,
)
from runner.attempt import Attempt
from runner.clock import Clock
from runner.devices import Group, Silent
from runner.probes import Collector
from runner.record import SCHEMA, Start, Status, Writer
from runner.same_data import OtherData
from runner.shadow import Observer
from runner.trial import Trial
from submissions import engine
from submissions.base import MATRIX_ROLES, Submission, Training, named_roles
from workloads import targets
from workloads.base import Workload

CHECKPOINT_SECONDS = 60.0
"""On-clock seconds between two checkpoints: the most that a crash can cost."""


def execute(
    trial: Trial,
    results: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    fresh: bool = False,
    interrupted: Callable[[], bool] = lambda: False,
    group: Group | None = None,
    save_model: Callable[[Workload, nn.Module], None] | None = None,
) -> Status:
    """Runs one attempt of a trial and returns how it ended; nothing it does by itself raises.

    Args:
        results: the attempt goes to `results/<study>/<trial>.<attempt>.jsonl`.
        fresh: start from the beginning even if there is a checkpoint.
        interrupted: asked after every step; True checkpoints and ends the attempt as `preempted`.
        group: the processes that share the trial, each of which calls this; rank 0 writes.
        save_model: called with the trained model at the end, off the clock.

    Raises:
        OSError: the record cannot be written.
    """
    torch.set_num_threads(threads)
    study = results / trial.study
    group = group or Group()
    number = int(group.agree(next_attempt(study, trial))[0])
    writer = Silent() if group.rank else Writer(record.path_of(study, trial.id, number))
    clock = Clock(torch.device(device))
    attempt: Attempt | None = None
    start: Start | None = None
    started = False
    status: Status
    reason, trace = None, None
    try:
        terms = Terms(device, threads, checkpoint_seconds, fresh, interrupted, group)
        attempt, start = prepare(trial, study, number, terms, writer, clock)
        writer.write(start)
        started = True
        with compilation.timed(clock) if attempt.workload.compile else contextlib.nullcontext():
            status = attempt.run()
            if status in ("reached", "missed"):
                attempt.conclude()
        reason = attempt.reason
        if save_model is not None and status in ("reached", "missed"):
            save_model(attempt.workload, attempt.training.model)
    except (Exception, SystemExit) as error:  # a whole trial: its end must be on record, whatever it was
        (status, reason), trace = verdict(error, trial), traceback.format_exc()
        start = error.start if isinstance(error, OtherData) else start
    if not started:
        writer.write(start or brackets.bare_start(trial, number, device, threads))
    writer.write(brackets.ending(attempt, status, reason, trace, clock))
    writer.close()
    if status != "preempted" and not group.rank:
        checkpoint.remove(checkpoint.path_of(study, trial))
    return status


class Terms(NamedTuple):
    """How an attempt is run, as `execute` was told."""

    device: str
    threads: int
    checkpoint_seconds: float
    fresh: bool
    interrupted: Callable[[], bool]
    group: Group


def prepare(trial: Trial, study: Path, number: int, terms: Terms, writer: Writer | Silent, clock: Clock) -> tuple[Attempt, Start]:
    """Everything the trial names, built, checked and resumed; the clock runs when it returns."""
    attempt = built(trial, study, terms, writer, clock)
    workload, model = attempt.workload, attempt.training.model
    observe(attempt, record.probes_of(record.path_of(study, trial.id, number)))
    if not workload.compile:  # compiled code keeps something else, and to compile is on the clock
        attempt.activations = memory.activations(workload, model, next(iter(attempt.batch(1).micro)))
    start = dataclasses.replace(
        brackets.bare_start(trial, number, terms.device, terms.threads, workload),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=attempt.data.identity(),
    )
    seconds = None if terms.fresh else resumption.resume(attempt, start)
    attempt.lost_seconds += resumption.lost(study, trial, number, (seconds or {}).get("total", 0.0))
    if attempt.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(attempt.device)
    clock.start(seconds)
    return attempt, dataclasses.replace(start, resumed_step=attempt.training.t if seconds else None)


def built(trial: Trial, study: Path, terms: Terms, writer: Writer | Silent, clock: Clock) -> Attempt:
    """The attempt before its first step.

    Raises:
        ValueError: parts of the trial do not fit one another, or its source has changed.
    """
    if trial.source_sha256 != catalog.source_sha256(trial.submission):
        raise ValueError(
            f"{trial.submission} or a module beside it has changed since this trial was planned;"
            " plan it again (a changed file makes new trials)"
        )
    place = torch.device(terms.device)
    workload = catalog.workload(trial.workload, trial.overrides)
    submission = composition.submission_of(trial)
    data = workload.open_data()
    workload = dataclasses.replace(workload, target=targets.on_data(workload.target, data.identity().get("sha256")))
    model = composition.model_of(submission, workload, trial.seed, place)
    training = Training(model=model, seed=trial.seed, steps=workload.budget.steps)
    if workload.layerwise:
        layerwise.check(workload, submission)
    training.optimizers = composition.optimizers_of(submission, workload, model, trial.seed)
    check_owners(submission, training)
    submission.begin(training)
    if workload.shard_state:
        sharding.check(workload, submission, training.optimizers, trial)
    attempt = Attempt(
        trial,
        workload,
        submission,
        data,
        place,
        training,
        clock,
        writer,
        checkpoint.path_of(study, trial),
        terms.checkpoint_seconds,
        terms.interrupted,
        terms.group,
    )
    if workload.shard_state and terms.group.world > 1:
        attempt.owners = sharding.divide(training.optimizers, terms.group)
    return attempt


def observe(attempt: Attempt, path: Path) -> None:
    """Sets up what is measured beside the training.

    Raises:
        ValueError: it cannot be measured in this trial.
    """
    trial, workload, submission = attempt.trial, attempt.workload, attempt.submission
    asked = observation.parse(trial.observe)
    found = named_roles(attempt.training.model)
    members = [engine.Named(name, parameter) for name, role, parameter in found if role in MATRIX_ROLES and parameter.ndim == 2]
    attempt.matrices = {id(member.parameter): member.name for member in members}
    if trial.probes_every is not None:
        header = {"schema": SCHEMA, "trial": trial.id, "attempt": int(path.name.split(".")[-2]), "indices": asked.indices}
        header |= {"observe": trial.observe, "matrices": [member.name for member in members]}
        attempt.probes = Collector(None if attempt.group.rank else path, header, asked.indices)
        attempt.probes.part = attempt.clock.part
    if asked.shadow is not None:
        if workload.layerwise:
            raise ValueError("observe: shadow with layerwise = true: the gradients are gone before they can be followed; set it to false")
        betas, eps = getattr(submission, "betas", (0.9, 0.999)), getattr(submission, "eps", 1e-8)
        attempt.observer = Observer(asked.shadow, members, trial.seed, betas, eps)


def verdict(error: BaseException, trial: Trial) -> tuple[Status, str]:
    """Out of memory, out of disk or of its data (it goes on when they are back), or failed; and why, with the submission's line."""
    if isinstance(error, OtherData):
        return "preempted", str(error)
    said = faults.told(error, catalog.files(trial.submission))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "preempted", f"{said}; free space, then run it again: it goes on from its last checkpoint"
    exhausted = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
    return ("out_of_memory" if exhausted else "failed"), said


def check_owners(submission: Submission, training: Training) -> None:
    """Every trainable parameter belongs to exactly one optimizer group.

    Raises:
        ValueError: one is forgotten or owned twice; the message names it.
    """
    names = {id(parameter): name for name, _, parameter in named_roles(training.model)}
    owned = [id(p) for optimizer in training.optimizers for group in optimizer.param_groups for p in group["params"]]
    name = type(submission).__name__
    for forgotten in names.keys() - set(owned):
        raise ValueError(
            f"{name} forgets {names[forgotten]}: expected every trainable parameter in one of its optimizers; freeze it or give it one"
        )
    twice = {key for key in owned if owned.count(key) > 1} if len(owned) != len(set(owned)) else set()
    for key in twice:
        raise ValueError(f"{name} gives {names.get(key, 'a parameter')} to two optimizers; expected exactly one owner")


def next_attempt(study: Path, trial: Trial) -> int:
    """One more than the last attempt on record."""
    earlier = record.attempts(study, trial.id)
    return int(earlier[-1].name.split(".")[-2]) + 1 if earlier else 0
