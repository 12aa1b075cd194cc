"""Tuning against a bowl instead of a training: the executor writes the record that a point deserves."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from runner import status, tune
from runner.commands import tune as command
from runner.trial import Trial
from tests import fake_records, planning

BEST = 3e-2


@pytest.fixture
def task(tmp_path: Path) -> tune.Task:
    planning.files(tmp_path)
    return tune.Task(
        submission=str(tmp_path / "idea.py"),
        workload=f"{tmp_path / 'paper.py'}:small",
        overrides={},
        fixed={"rank": 4},
        axes={"lr": {"log": [1e-4, 1.0]}, "limiter": {"values": ["none", "growth"]}},
        budget=30,
        method="coordinate",
    )


class Bowl:
    """Runs trials: the further from the best learning rate, the later the target; `growth` is twice as fast; lr > 0.5 diverges."""

    def __init__(self, results: Path, limit: float = math.inf) -> None:
        self.results, self.limit, self.ran = results, limit, 0

    def __call__(self, trials: list[Trial]) -> None:
        for trial in trials:
            if self.ran >= self.limit or status.row(self.results / trial.study, trial.id):
                continue
            self.ran += 1
            lr = trial.hyperparameters["lr"]
            far = abs(math.log10(lr / BEST))
            seconds = (10 + 10 * far) / (2 if trial.hyperparameters["limiter"] == "growth" else 1)
            how: Any = "diverged" if lr > 0.5 else "missed" if far > 2 else "reached"
            fake_records.write(self.results, trial, how, value=1.5 + far, seconds=seconds)


def test_coordinate_descent_finds_the_bottom_from_the_defaults(tmp_path: Path, task: tune.Task) -> None:
    found = tune.best_first(task, tmp_path / "r", Bowl(tmp_path / "r"))
    assert len(found) <= task.budget
    assert found[0].values["limiter"] == "growth"
    assert abs(math.log10(found[0].values["lr"] / BEST)) < 0.15
    assert found[0].trials[0].hyperparameters["rank"] == 4
    assert [scored.score for scored in found] == sorted(scored.score for scored in found)
    assert tune.edges(task, found[0]) == []


def test_the_budget_counts_points_and_every_seed_runs(tmp_path: Path, task: tune.Task) -> None:
    task = dataclasses.replace(task, method="halton", budget=5, seeds=(0, 1, 2))
    bowl = Bowl(tmp_path / "r")
    found = tune.best_first(task, tmp_path / "r", bowl)
    assert (len(found), bowl.ran) == (5, 15)
    assert len({scored.values["lr"] for scored in found}) == 5


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, task: tune.Task) -> None:
    whole = Bowl(tmp_path / "whole")
    expected = tune.best_first(task, tmp_path / "whole", whole)
    first = Bowl(tmp_path / "r", limit=4)
    with pytest.raises(tune.Unfinished, match="run the same command again"):
        tune.best_first(task, tmp_path / "r", first)
    second = Bowl(tmp_path / "r")
    found = tune.best_first(task, tmp_path / "r", second)
    assert [(s.values, s.score) for s in found] == [(s.values, s.score) for s in expected]
    assert first.ran + second.ran == whole.ran


def test_what_reached_beats_what_missed_beats_what_broke(tmp_path: Path, task: tune.Task) -> None:
    task = dataclasses.replace(task, axes={"lr": {"values": [0.9, 1e-4, BEST]}}, method="coordinate")
    found = tune.best_first(task, tmp_path / "r", Bowl(tmp_path / "r"))
    assert [scored.values["lr"] for scored in found] == [BEST, 1e-4, 0.9]
    assert [scored.score[0] for scored in found] == [0, 1, 2]


def test_the_report_names_cost_and_edge(tmp_path: Path, task: tune.Task) -> None:
    task = dataclasses.replace(task, axes={"lr": {"log": [1e-4, 1e-2]}})
    found = tune.best_first(task, tmp_path / "r", Bowl(tmp_path / "r"))
    text = command.report(task, found)
    assert f"spent: {len(found)} points x 1 seeds" in text
    assert "best: --set lr=0.01" in text
    assert "warning: the best lr lies at the edge of its range: widen it" in text


def test_by_value_the_lowest_loss_at_the_end_counts(tmp_path: Path, task: tune.Task) -> None:
    task = dataclasses.replace(task, objective="value", axes={"lr": {"values": [1e-3, BEST, 0.3]}})
    found = tune.best_first(task, tmp_path / "r", Bowl(tmp_path / "r"))
    assert found[0].values["lr"] == BEST
    assert found[0].score == (1, pytest.approx(1.5))
    assert found[0].trials[0].stop == "budget"
