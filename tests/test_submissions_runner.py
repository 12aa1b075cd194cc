"""Every submission in the real runner: interrupted and killed it tells the same story, and its memory is what it declares."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kills import Story, at_call, in_child, story

from runner import attempt, catalog, composition, hyperparameters, memory, record, train
from runner.trial import Trial
from submissions.base import MATRIX_ROLES, Submission
from workloads.architecture import Architecture

NAMES = catalog.submission_names()
STEPS = 8
TINY = {
    "steps": STEPS,
    "evaluate_every": 4,
    "batch.sequences": 2,
    "batch.length": 32,
    "validation_tokens": 64,
    "model.layers": 2,
    "model.hidden": 32,
    "model.mlp": 88,
}
SMALL: dict[str, Any] = {"rank": 8, "gap": 3, "frequency": 3, "members": 4, "gamma": 1, "refresh": 2, "freeze": 1, "growth": 2}
"""Values that let everything periodic happen within the steps, for the submissions that have the field as a number."""


def trial_of(name: str) -> Trial:
    cls = catalog.submission_class(name)
    values = hyperparameters.defaults(name, "llama_nano")
    fields = cls.__dataclass_fields__
    values |= {key: value for key, value in SMALL.items() if key in fields and type(value).__name__ in str(fields[key].type)}
    chosen = hyperparameters.values(hyperparameters.resolve(cls, values))
    return Trial(study="tiny", workload="llama_nano", overrides=TINY, submission=name, hyperparameters=chosen, seed=5, stop="budget")


def run(trial: Trial, results: Path, **options: Any) -> None:
    status = train.execute(trial, results, checkpoint_seconds=0.0, **options)
    assert status in ("preempted" if options else "missed", "reached"), status


def stopped(trial: Trial, results: Path, after: int) -> None:
    asked = iter([False] * (after - 1) + [True])
    run(trial, results, interrupted=lambda: next(asked))


def killed(trial: Trial, results: Path, after: int) -> None:
    at_call(attempt.Attempt, "step", after, False)
    run(trial, results)


def told(trial: Trial, results: Path) -> Story:
    return story(results / trial.study, trial.id)


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_and_killed_it_tells_the_same_story(name: str, tmp_path: Path) -> None:
    trial = trial_of(name)
    predicted = memory.predict(composition.submission_of(trial), catalog.workload(trial.workload, trial.overrides))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert in_child(lambda: run(trial, whole)) == 0
    assert in_child(lambda: stopped(trial, broken, 3)) == 0
    # The kill is in the fourth step of the second attempt, the seventh of all: what it computed since the sixth is lost.
    assert os.WTERMSIG(in_child(lambda: killed(trial, broken, 4))) == signal.SIGKILL
    assert in_child(lambda: run(trial, broken)) == 0
    assert told(trial, whole)[1]
    assert told(trial, broken) == told(trial, whole)
    starts = [line.resumed_step for path in record.attempts(broken / "tiny", trial.id) for line in [next(iter(record.lines(path)))]]  # type: ignore[union-attr]
    assert starts == [None, 3, 6]
    (path,) = record.attempts(whole / "tiny", trial.id)
    *_, end = record.lines(path)
    assert isinstance(end, record.End)
    if name not in ("badam", "frugal"):  # they hold the state of some blocks at a time, and blocks differ
        assert end.bytes["state"] == predicted["state"]
    assert end.bytes["weights"] == predicted["weights"]


def formula(submission: Submission, rows: int, columns: int, role: str, shape: Architecture) -> float:
    """`memory` of one matrix in elements of 4 bytes."""
    names: dict[str, Any] = {field.name: getattr(submission, field.name) for field in dataclasses.fields(submission)}
    names |= {"m": min(rows, columns), "n": max(rows, columns), "rows": rows, "columns": columns, "role": role}
    names |= {"layers": shape.layers, "heads": shape.heads, "ceil": math.ceil, "min": min, "max": max}
    return float(eval(submission.memory, {"__builtins__": {}}, names))


def untreated(submission: Submission, shape: Architecture, wide: Callable[[str], float], vector: Callable[[bool], float]) -> float:
    """State of embedding, head and norms: `wide` of the two matrices' roles, `vector` of a norm (of a layer, or the last)."""
    return wide("embed") + wide("head") + 2 * shape.layers * vector(True) + vector(False)


def expected(name: str, submission: Submission, shape: Architecture) -> float:
    """State of the whole model by the declared formula, and Adam's or the method's own for what it does not treat."""
    h, mlp = shape.hidden, shape.mlp
    assert shape.vocab
    size = shape.vocab * h
    sides = {role: (h, h) if role.startswith("attn") else (h, mlp) if role == "mlp.down" else (mlp, h) for role in MATRIX_ROLES}
    total = shape.layers * sum(formula(submission, *sides[role], role, shape) for role in MATRIX_ROLES)
    if name in ("bottleneck", "prefix"):  # they train the matrices beside their adapters' too
        total += shape.layers * sum(2 * math.prod(sides[role]) + 1 for role in MATRIX_ROLES if role not in submission.matrices)  # type: ignore[attr-defined]
    share = getattr(submission, "gamma", shape.layers) / shape.layers if name in ("lisa", "owlore") else 1.0
    whole: dict[str, tuple[Callable[[str], float], Callable[[bool], float]]] = {
        "lion": (lambda role: size, lambda inside: h),
        "sgd": (lambda role: size, lambda inside: h),
        "nadamw": (lambda role: 2 * size, lambda inside: 2 * h),
        "schedule_free": (lambda role: 2 * size, lambda inside: 2 * h),
        "adafactor": (lambda role: shape.vocab + h, lambda inside: h),  # type: ignore[operator]
        "adam8bit": (lambda role: formula(submission, shape.vocab, h, role, shape), lambda inside: 2 * h),  # type: ignore[arg-type]
        "adam_mini": (lambda role: size + shape.vocab, lambda inside: h + 1),  # type: ignore[operator]
        "scale": (lambda role: size if role == "head" else 0, lambda inside: 2 * h + 1),
    }
    adam = (lambda role: 2 * size + 1, lambda inside: (2 * h + 1) * (share if inside else 1.0))
    return total + untreated(submission, shape, *whole.get(name, adam))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "badam"])
def test_memory_of_llama_nano_is_the_sum_of_the_formula(name: str) -> None:
    workload: Any = catalog.workload("llama_nano")
    submission = hyperparameters.resolve(catalog.submission_class(name), hyperparameters.defaults(name, "llama_nano"))
    found = memory.predict(submission, workload)["state"]
    assert found == 4 * expected(name, submission, workload.architecture())


def test_badam_holds_one_block_and_declares_the_mean() -> None:
    workload: Any = catalog.workload("llama_nano")
    badam: Any = hyperparameters.resolve(catalog.submission_class("badam"), hyperparameters.defaults("badam", "llama_nano"))
    model = workload.build(0, "meta")
    blocks = [sum(2 * member.parameter.numel() + 1 for member in block) for block in badam.blocks(model)]
    assert memory.predict(badam, workload)["state"] == 4 * blocks[-1]
    norms_and_ends = untreated(badam, workload.architecture(), lambda role: 2 * 256 * 128 + 1, lambda inside: 2 * 128 + 1)
    assert sum(blocks) / len(blocks) == pytest.approx(
        expected("badam", badam, workload.architecture()) - norms_and_ends * (1 - 1 / len(blocks))
    )
