"""From a trial to its record: builds what it names, resumes if there is a checkpoint, trains, and writes how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from runner import brackets, catalog, checkpoint, compilation, composition, faults, layerwise, memory, observation, record, sharding
from runner.attempt import Attempt
from runner.clock import Clock
from runner.devices import Group, Silent
from runner.probes import Collector
from runner.record import SCHEMA, Start, Status, Writer
from runner.same_data import OtherData, difference
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
        attempt, start = prepare(trial, study, writer, clock, number, device, threads, checkpoint_seconds, fresh, interrupted, group)
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


def prepare(
    trial: Trial,
    study: Path,
    writer: Writer | Silent,
    clock: Clock,
    number: int,
    device: str,
    threads: int,
    checkpoint_seconds: float,
    fresh: bool,
    interrupted: Callable[[], bool],
    group: Group,
) -> tuple[Attempt, Start]:
    """Everything the trial names, built, checked and resumed; the clock runs when it returns."""
    place = torch.device(device)
    if trial.source_sha256 != catalog.source_sha256(trial.submission):
        raise ValueError(
            f"{trial.submission} or a module beside it has changed since this trial was planned;"
            " plan it again (a changed file makes new trials)"
        )
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
    parameters = sum(parameter.numel() for parameter in model.parameters())
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
        checkpoint_seconds,
        interrupted,
        group,
    )
    if workload.shard_state and group.world > 1:
        attempt.owners = sharding.divide(training.optimizers, group)
    observe(attempt, record.probes_of(record.path_of(study, trial.id, number)))
    if not workload.compile:  # compiled code keeps something else, and to compile is on the clock
        attempt.activations = memory.activations(workload, model, next(iter(attempt.batch(1).micro)))
    saved, unreadable = None, False
    if not fresh:
        try:
            saved = checkpoint.load(attempt.checkpoint_path, place)
        except ValueError as error:  # cut off by a full disk or a dying file system
            unreadable = True
            warnings.warn(f"{error}: the trial starts again from step 0", stacklevel=2)
    mine = saved if saved and saved["trial"] == trial.id else None
    if mine and (why := difference(mine.get("data", {}), data.identity())):
        kept = brackets.bare_start(trial, number, device, threads, workload)
        raise OtherData(
            dataclasses.replace(kept, data=mine["data"], resumed_step=mine["t"]),
            f"{attempt.checkpoint_path}, of step {mine['t']}, was made on other data: {why}; restore them and run it again, "
            "or remove the file to start from step 0",
        )
    seconds = checkpoint.take_up(attempt, mine) if mine else None
    attempt.lost_seconds += lost(study, trial, number, (seconds or {}).get("total", 0.0))
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    start = dataclasses.replace(
        brackets.bare_start(trial, number, device, threads, workload),
        parameters=parameters,
        data=data.identity(),
        resumed_step=training.t if seconds else None,
    )
    if unreadable:
        start.settings["checkpoint"] = "unreadable"
    clock.start(seconds)
    return attempt, start


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


def lost(study: Path, trial: Trial, number: int, resumed_seconds: float) -> float:
    """On-clock seconds that the previous attempt recorded beyond the point where this one goes on."""
    earlier = [path for path in record.attempts(study, trial.id) if path != record.path_of(study, trial.id, number)]
    if not earlier:
        return 0.0
    reached = 0.0
    with contextlib.suppress(ValueError):  # a damaged record of an earlier attempt costs its account of lost work, not this attempt
        for line in record.lines(earlier[-1]):
            reached = max(reached, line.seconds) if isinstance(line, record.Point) else reached
    return max(0.0, reached - resumed_seconds)
