"""The contract that every submission keeps, run on one submission: a short real training, and what must hold of it.

The model is one layer of `llama_nano`, with square, tall and wide matrices.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runner import catalog, checkpoint, composition, expansion, faults, hyperparameters, memory, record, status, train
from runner.trial import Trial
from submissions.base import MatrixSubmission, Submission, Training

STEPS = 8
WORKLOAD = "llama_nano"
SMALL = {"model.layers": 1, "batch.sequences": 2, "batch.length": 32, "steps": STEPS}


@dataclass(frozen=True)
class Finding:
    """One clause of the contract: what holds, or what is wrong."""

    clause: str
    problem: str | None = None
    note: str = ""


def trial_of(submission: str, values: dict[str, Any]) -> Trial:
    """The short trial that the checks run.

    Raises:
        ValueError: the file or a hyperparameter is wrong.
    """
    document = {"study": "check", "workload": WORKLOAD, "overrides": SMALL, "stop": "budget", "probes_every": STEPS // 2}
    candidate = expansion.Candidate(values)
    return next(expansion.trials_of(expansion.protocol(document), submission, WORKLOAD, SMALL, [candidate], first_point=0))


def contract(trial: Trial) -> Iterator[Finding]:
    """The clauses in order, up to the first that makes the others pointless."""
    submission = hyperparameters.resolve(catalog.submission_class(trial.submission), trial.hyperparameters)
    first = _gradients(submission, trial)
    yield first
    if first.problem:
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = _train(trial, Path(folder) / "whole")
        yield _ended(whole)
        if whole.status != "missed":
            return
        again = _train(trial, Path(folder) / "again")
        yield Finding("same seed, same bits", _differs(whole, again, "a second run with the same seed"), "two runs agree in every weight")
        yield _resumes(trial, whole, Path(folder) / "resumed")
    yield _memory(submission, trial, whole)


def _gradients(submission: Submission, trial: Trial) -> Finding:
    """A zero gradient, then a normal one, on every parameter."""
    clause = "a zero gradient, then a normal one"
    workload = catalog.workload(trial.workload, trial.overrides)
    model = submission.wrap(workload.build(0, "cpu"), 0)
    try:
        training = Training(model, 0, STEPS, optimizers=composition.optimizers_of(submission, workload, model, 0))
        submission.begin(training)
        for scale in (0.0, 1.0):
            for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).to(parameter.dtype)
                parameter.grad = scale * noise
            for optimizer in training.optimizers:
                optimizer.step()
            for name, parameter in model.named_parameters():
                if not torch.isfinite(parameter).all():
                    kind = "zero" if scale == 0 else "normal"
                    return Finding(clause, f"{name} has NaN or infinite weights after a {kind} gradient: guard the division (+ eps)")
        checkpoint.check(training)
    except (Exception, SystemExit) as error:  # the user's code may raise anything; the finding names where
        return Finding(clause, faults.told(error, catalog.files(trial.submission)))
    return Finding(clause, None, "weights stay finite; a checkpoint can hold the state")


def _train(trial: Trial, results: Path, *, stop_after: int | None = None) -> record.End:
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    train.execute(trial, results, interrupted=interrupted)
    *_, end = record.lines(record.attempts(results / trial.study, trial.id)[-1])
    assert isinstance(end, record.End)
    return end


def _ended(end: record.End) -> Finding:
    clause = f"trains {STEPS} steps"
    if end.status == "missed":
        return Finding(clause, None, "it owns every parameter once, and updates have the right shape")
    return Finding(clause, f"{end.status}: {end.reason}")


def _differs(one: record.End, other: record.End, what: str) -> str | None:
    if other.status != one.status:
        return f"{what} ended as {other.status}: {other.reason}"
    if one.extra.get("weights_sha256") != other.extra.get("weights_sha256"):
        return f"{what} has other weights: draw random numbers only from `seed_b` (seeded = True), never from a global generator"
    return None


def _resumes(trial: Trial, whole: record.End, results: Path) -> Finding:
    stopped = _train(trial, results, stop_after=STEPS // 2)
    clause, note = "stops and resumes exactly", "saved, loaded with weights_only=True, and went on to the same weights"
    if stopped.status != "preempted":
        return Finding(clause, f"saving it ended as {stopped.status}: {stopped.reason}")
    problem = _differs(whole, _train(trial, results), "a resumed run")
    return Finding(clause, problem and f"{problem} (what it remembers must be in the state, or follow from t)", note)


def _memory(submission: Submission, trial: Trial, end: record.End) -> Finding:
    clause = "state has the predicted size"
    try:
        sizes = memory.predict(submission, catalog.workload(trial.workload, trial.overrides))
    except memory.Unpredictable as error:
        return Finding(clause, None, f"it cannot be predicted: {error} (made or updated on the meta device, which has no values)")
    if (measured := end.bytes.get("state")) == sizes["state"]:
        return Finding(clause, None, ", ".join(f"{name} {status.megabytes(float(size))}" for name, size in sizes.items() if name != "peak"))
    if measured is None:
        return Finding(clause, f"it cannot be measured: {end.extra['unmeasured']}")
    where = "init" if isinstance(submission, MatrixSubmission) else "begin (training.state) or an optimizer's first step"
    advice = f"make every tensor in {where}, in its final shape" if measured > sizes["state"] else "freeze what takes no part in the loss"
    return Finding(clause, f"after {STEPS} steps state has {int(measured):,} bytes, at the start {sizes['state']:,}: {advice}")
