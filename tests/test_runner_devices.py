"""One trial on two processes, and updates inside the backward pass: the same training as plainly on one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from runner import catalog, hyperparameters, local, record, train
from runner.trial import Trial
from submissions.adam import Adam
from submissions.base import Submission
from submissions.fira import Fira

TINY = {"steps": 12, "evaluate_every": 6, "batch.sequences": 4, "validation_tokens": 512}


def trial_of(submission: Submission, study: str, **overrides: Any) -> Trial:
    name = type(submission).__name__.lower()
    chosen = hyperparameters.values(submission)
    return Trial(
        study=study, workload="llama_nano", overrides={**TINY, **overrides}, submission=name, hyperparameters=chosen, seed=1, stop="budget"
    )


def curve(results: Path, trial: Trial) -> tuple[list[tuple[int, str]], list[float], record.End]:
    (path,) = record.attempts(results / trial.study, trial.id)
    lines = list(record.lines(path))
    assert isinstance(lines[-1], record.End), lines[-1]
    assert lines[-1].status == "missed", lines[-1].reason
    points = [line for line in lines if isinstance(line, record.Point)]
    return [(point.step, point.name) for point in points], [point.value for point in points], lines[-1]


@pytest.mark.parametrize("shard_state", [False, True])
def test_two_processes_train_like_one(shard_state: bool, tmp_path: Path) -> None:
    one = trial_of(Fira(rank=8, gap=5), "one")
    two = trial_of(Fira(rank=8, gap=5), "two", devices=2, shard_state=shard_state)
    outcomes = local.run_all([one, two], tmp_path, workers=1, threads=1, quiet=True)
    assert [outcome.status for outcome in outcomes] == ["missed", "missed"], [outcome.reason for outcome in outcomes]
    names, values, alone = curve(tmp_path, one)
    names_two, values_two, end = curve(tmp_path, two)
    assert names_two == names
    assert values_two == pytest.approx(values, rel=2e-5)
    first, second = end.extra["bytes_by_rank"]
    if shard_state:
        assert max(first["state"], second["state"]) < 0.9 * alone.bytes["state"]
        assert alone.bytes["state"] < first["state"] + second["state"] < 1.6 * alone.bytes["state"], "the dense part's is on both"
    else:
        assert first["state"] == second["state"] == alone.bytes["state"]


@pytest.mark.parametrize("submission", [Adam(lr=5e-3), Fira(rank=8, gap=5)], ids=["adam", "fira"])
def test_updates_inside_the_backward_pass_change_nothing(submission: Submission, tmp_path: Path) -> None:
    plain, layerwise = trial_of(submission, "plain"), trial_of(submission, "layerwise", layerwise=True)
    for trial in (plain, layerwise):
        assert train.execute(trial, tmp_path) == "missed"
    names, values, _ = curve(tmp_path, plain)
    names_layerwise, values_layerwise, _ = curve(tmp_path, layerwise)
    assert names_layerwise == names
    assert values_layerwise == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(("overrides", "clip", "word"), [({"batch.micro": 2}, None, "accumulated"), ({}, 1.0, "global norm")])
def test_layerwise_refuses_what_needs_all_gradients(overrides: dict[str, int], clip: float | None, word: str, tmp_path: Path) -> None:
    trial = trial_of(Adam(clip=clip), "refused", layerwise=True, **overrides)
    assert train.execute(trial, tmp_path) == "failed"
    end = list(record.lines(record.attempts(tmp_path / "refused", trial.id)[0]))[-1]
    assert isinstance(end, record.End)
    assert word in str(end.reason)


@pytest.mark.parametrize(
    ("submission", "overrides", "probes_every", "words"),
    [
        (Adam(), {}, None, "Adam has no optimizer that keeps its state by matrix"),
        (Fira(rank=8), {"layerwise": True}, None, "shard_state = true with layerwise = true: choose one"),
        (Fira(rank=8), {}, 4, "shard_state = true with probes_every: no rank sees all matrices"),
    ],
)
def test_state_that_cannot_be_divided(
    submission: Submission, overrides: dict[str, bool], probes_every: int | None, words: str, tmp_path: Path
) -> None:
    trial = dataclasses.replace(trial_of(submission, "refused", shard_state=True, **overrides), probes_every=probes_every)
    assert train.execute(trial, tmp_path) == "failed"
    end = list(record.lines(record.attempts(tmp_path / "refused", trial.id)[0]))[-1]
    assert isinstance(end, record.End)
    assert words in str(end.reason)


def test_dividing_state_makes_another_workload_and_not_dividing_it_none() -> None:
    assert "shard_state" not in catalog.workload("llama_nano", {}).spec()
    assert catalog.workload("llama_nano", {"shard_state": True}).spec()["shard_state"]
