"""Reading ahead changes when a batch is read, never which."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runner import hyperparameters, record, train
from runner.clock import Clock
from runner.devices import Group
from runner.feed import Feed, GlobalBatch
from runner.trial import Trial
from submissions.adam import Adam

CPU = torch.device("cpu")


def feed(steps: list[int], *, last: int = 5, ahead: bool = True) -> Feed:
    """Batches that are their steps; notes what was read, and fails at step 4."""

    def read(step: int) -> GlobalBatch:
        steps.append(step)
        if step == 4:
            raise ValueError("the disk is gone")
        return GlobalBatch([torch.tensor(step)], step)

    return Feed(read, CPU, last=last, ahead=ahead)


def test_the_next_batch_is_read_before_it_is_asked_for_and_none_after_the_last() -> None:
    read: list[int] = []
    ahead = feed(read, last=3)
    assert [ahead.batch(step).tokens for step in (1, 2, 3)] == [1, 2, 3]
    ahead.close()
    assert read == [1, 2, 3]


def test_a_cpu_reads_when_it_is_asked() -> None:
    read: list[int] = []
    plain = Feed(feed(read)._read, CPU, last=5)
    plain.batch(1)
    assert read == [1]
    plain.close()


def test_a_step_that_was_not_expected_is_read_anew() -> None:
    """As on resuming."""
    ahead = feed([])
    assert ahead.batch(1).tokens == 1
    assert ahead.batch(3).tokens == 3
    ahead.close()


def test_an_error_belongs_to_the_step_that_needs_the_batch() -> None:
    ahead = feed([])
    assert ahead.batch(3).tokens == 3
    with pytest.raises(ValueError, match="the disk is gone"):
        ahead.batch(4)
    ahead.close()


def test_a_trial_that_reads_ahead_trains_on_the_same_batches(tmp_path: Path) -> None:
    tiny = {"steps": 3, "batch.sequences": 2, "batch.micro": 1, "batch.length": 16, "model.layers": 1, "validation_tokens": 64}
    weights = []
    for ahead in (False, True):
        chosen = hyperparameters.values(Adam())
        trial = Trial(study="s", workload="llama_nano", overrides=tiny, submission="adam", hyperparameters=chosen, seed=0)
        writer = record.Writer(tmp_path / f"{ahead}.jsonl")
        attempt, _ = train.prepare(trial, tmp_path, 0, train.Terms("cpu", 1, 1e9, True, lambda: False, Group()), writer, Clock(CPU))
        attempt.feed = Feed(attempt.batch, CPU, last=3, ahead=ahead)
        attempt.run()
        weights.append([parameter.detach() for parameter in attempt.training.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
