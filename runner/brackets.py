"""The lines that open and close a record: what was asked and where it runs, how it ended and what it cost."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runner import catalog, fingerprint, sources
from runner.record import End, Start, Status

if TYPE_CHECKING:
    from runner.attempt import Attempt
    from runner.clock import Clock
    from runner.trial import Trial
    from workloads.base import Workload


def bare_start(trial: Trial, number: int, device: str, threads: int, workload: Workload | None = None) -> Start:
    """The start line, as far as it is known before anything is built."""
    target = workload.target if workload else None
    settings = {
        "device": device,
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "devices": workload.devices if workload else 1,
        "probes_every": trial.probes_every,
        "observe": trial.observe,
        "adapter": trial.adapter,
        "space": trial.space,
    }
    settings["asked"] = {"workload": trial.workload, "overrides": trial.overrides, "submission": trial.submission}
    if workload:
        settings |= {
            "precision": dataclasses.asdict(workload.precision),
            "micro": workload.batch.micro,
            "checkpointing": workload.checkpointing,
            "layerwise": workload.layerwise,
            "shard_state": workload.shard_state,
            "compile": workload.compile,
        }
        settings |= {"evaluate_every": workload.evaluate_every, "hardware": workload.hardware}
    return Start(
        trial=trial.id,
        attempt=number,
        study=trial.study,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        workload=trial.workload_name,
        base_workload=workload.variant_of if workload else None,
        submission=trial.submission_name,
        hyperparameters=trial.hyperparameters,
        seed=trial.seed,
        ruleset=trial.ruleset,
        tuning_study=trial.tuning_study,
        tuning_trial=trial.tuning_trial,
        target={**dataclasses.asdict(target), "name": target.metric} if target else None,
        budget=dataclasses.asdict(workload.budget) if workload else {},
        stop=trial.stop,
        parameters=0,
        tokens_per_step=workload.batch.tokens if workload else 0,
        data={},
        source=source_of(trial),
        settings=settings,
        fingerprint=fingerprint.take(torch.device(device), threads=threads, devices=workload.devices if workload else 1),
    )


def source_of(trial: Trial) -> dict[str, Any]:
    """File name, hash and text of the submission, and the hashes of modules beside it."""
    try:
        path = catalog.source(trial.submission)
        text = path.read_text(encoding="utf-8")
        modules = catalog.modules(trial.submission)
    except (OSError, ValueError):
        return {}
    content = {"file": path.name, "sha256": sources.identity(text.encode(), modules), "text": text}
    return {**content, "modules": modules} if modules else content


def ending(attempt: Attempt | None, status: Status, reason: str | None, trace: str | None, clock: Clock) -> End:
    if attempt is None:
        return End(status=status, step=0, seconds={}, bytes={}, reason=reason, traceback=trace)
    extra: dict[str, Any] = {}
    sizes: dict[str, float] = {}
    try:
        sizes = attempt.bytes()
        if attempt.device.type == "cpu" and status in ("reached", "missed"):
            extra["weights_sha256"] = weights_sha256(attempt.training.model)
    except Exception as error:  # the trial is over: what cannot be measured of it must not keep its end from the record
        extra["unmeasured"] = f"{type(error).__name__}: {error}"
    if attempt.group.world > 1 and status != "failed":  # a failed rank must not wait for the others
        extra["bytes_by_rank"] = attempt.group.gather(sizes)
    return End(
        status=status,
        step=attempt.training.t,
        seconds=clock.settle(),
        bytes=sizes,
        reached=attempt.reached,
        reason=reason,
        traceback=trace,
        lost_seconds=attempt.lost_seconds,
        extra=extra,
    )


def weights_sha256(model: nn.Module) -> str:
    """Hash of all parameters, to compare two runs bit for bit from their records."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().tobytes())  # a view of bytes needs an axis
    return digest.hexdigest()
