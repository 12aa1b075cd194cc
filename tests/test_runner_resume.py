"""A trial killed with SIGKILL at any moment resumes bit-identically: same points, same final weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kills import Story, at_call, in_child, kill_now, story

from runner import attempt, brackets, checkpoint, hyperparameters, record, train
from runner.trial import Trial
from submissions.fira import Fira

TINY = {"steps": 24, "evaluate_every": 6, "batch.sequences": 2, "validation_tokens": 512}


def fira_trial() -> Trial:
    chosen = hyperparameters.values(Fira(rank=8, gap=5))
    return Trial(
        study="kill",
        workload="llama_nano",
        overrides=TINY,
        submission="fira",
        hyperparameters=chosen,
        seed=3,
        stop="budget",
        probes_every=4,
        observe={"indices": 10, "shadow": {"ranks": [4], "gap": 5, "bases": ["svd", "coordinates"]}},
    )


def run(results: Path) -> None:
    assert train.execute(fira_trial(), results, checkpoint_seconds=0.0) in ("reached", "missed")


def told(results: Path) -> Story:
    return story(results / "kill", fira_trial().id)


def half_a_checkpoint() -> None:
    original, calls = torch.save, [0]

    def cut(content: object, file: object) -> None:
        calls[0] += 1
        original(content, file)
        if calls[0] == 9:
            file.truncate(file.tell() // 2)  # type: ignore[attr-defined]
            kill_now()

    torch.save = cut


def half_a_line() -> None:
    original, calls = record.Writer.write, [0]

    def cut(self: record.Writer, *lines: record.Line) -> None:
        calls[0] += 1
        if calls[0] == 17:
            text = "".join(map(record.encode, lines))
            self._file.write(text[: len(text) // 2])
            self._file.flush()
            kill_now()
        original(self, *lines)

    record.Writer.write = cut  # type: ignore[method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first checkpoint": lambda: at_call(attempt.Attempt, "step", 1, False),
    "after a gradient, before the update": lambda: at_call(attempt.Attempt, "_backward", 8, False),
    "in an update, some matrices done": lambda: at_call(Fira, "update", 40, False),
    "in a refresh": lambda: at_call(Fira, "refresh", 9, True),
    "in an evaluation": lambda: at_call(attempt.Attempt, "evaluate", 2, True),
    "while a checkpoint is written": half_a_checkpoint,
    "before a checkpoint is renamed": lambda: at_call(os, "replace", 13, True),
    "after a checkpoint is renamed": lambda: at_call(os, "replace", 13, False),
    "in the middle of a record's line": half_a_line,
    "before the end is written": lambda: at_call(brackets, "ending", 1, True),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Story:
    results = tmp_path_factory.mktemp("uninterrupted")
    assert in_child(lambda: run(results)) == 0
    points, hashed = told(results)
    assert hashed
    assert {step for step, *_ in points} >= {4, 6, 24}
    return points, hashed


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_bit_identical(moment: str, uninterrupted: object, tmp_path: Path) -> None:
    def killed() -> None:
        MOMENTS[moment]()
        run(tmp_path)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL, "the moment never came"
    assert in_child(lambda: run(tmp_path)) == 0
    assert told(tmp_path) == uninterrupted
    left = {path.name for path in (tmp_path / "kill").iterdir()} - {f"{fira_trial().id}.{k}.probes" for k in range(2)}
    assert left == {f"{fira_trial().id}.{k}.jsonl" for k in range(2)}


def test_killed_three_times(uninterrupted: object, tmp_path: Path) -> None:
    for step in (3, 9, 4):

        def killed(step: int = step) -> None:
            at_call(attempt.Attempt, "step", step, False)
            run(tmp_path)

        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
    assert in_child(lambda: run(tmp_path)) == 0
    assert told(tmp_path) == uninterrupted


def test_gentle_interruption_loses_nothing(uninterrupted: object, tmp_path: Path) -> None:
    def stopped() -> None:
        asked = iter([False] * 7 + [True])
        assert train.execute(fira_trial(), tmp_path, interrupted=lambda: next(asked)) == "preempted"

    assert in_child(stopped) == 0
    assert in_child(lambda: run(tmp_path)) == 0
    assert told(tmp_path) == uninterrupted
    first, second = (list(record.lines(path)) for path in record.attempts(tmp_path / "kill", fira_trial().id))
    assert isinstance(first[-1], record.End)
    assert (first[-1].status, first[-1].step) == ("preempted", 8)
    assert isinstance(second[0], record.Start)
    assert second[0].resumed_step == 8
    assert isinstance(second[-1], record.End)
    assert second[-1].lost_seconds == 0.0


def test_an_unreadable_checkpoint_starts_the_trial_again(uninterrupted: object, tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path / "kill", fira_trial())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")
    assert in_child(lambda: run(tmp_path)) == 0
    assert told(tmp_path) == uninterrupted
