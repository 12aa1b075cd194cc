"""The predicted peak of a step is the one that a live step has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner import allocation, catalog, memory
from submissions.adam import Adam
from submissions.badam import Badam
from submissions.fira import Fira
from submissions.galore import Galore


def test_the_ledger_counts_storages_while_they_live() -> None:
    held = torch.zeros(10)
    with allocation.Ledger([held]) as ledger:
        assert ledger.peak == ledger.live == 40
        one = torch.zeros(100)
        view = one.view(10, 10)
        assert ledger.live == 440
        del one
        assert ledger.live == 440, "the view still holds it"
        del view
        assert (ledger.live, ledger.peak) == (40, 440)


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"layerwise": True, "checkpointing": True, "loss_chunk": 256}])
@pytest.mark.parametrize("submission", [Adam(), Galore(rank=32), Fira(rank=32)], ids=["adam", "galore", "fira"])
def test_the_peak_from_shapes_is_the_live_one(submission: Any, changes: dict[str, Any]) -> None:
    workload = catalog.workload("llama_nano", changes)
    assert allocation.peak(submission, workload) == pytest.approx(allocation.peak(submission, workload, "cpu"), rel=0.05)


def test_each_saving_lowers_the_peak() -> None:
    rule = Fira(rank=32)
    steps: list[dict[str, Any]] = [{}, {"checkpointing": True}, {"checkpointing": True, "layerwise": True}]
    whole, recomputed, at_once = (allocation.peak(rule, catalog.workload("llama_nano", changes)) for changes in steps)
    assert at_once <= recomputed < 0.6 * whole
    assert allocation.peak(Fira(rank=32, state_dtype="bf16_stochastic"), catalog.workload("llama_nano")) < whole


def test_refuses_a_submission_whose_steps_only_a_trial_can_follow() -> None:
    with pytest.raises(ValueError, match="its peak can only be measured"):
        allocation.peak(Badam(), catalog.workload("llama_nano"))


def test_gradients_in_bf16_cost_one_copy_in_fp32_at_a_time() -> None:
    """Twice the fp32 copy of the largest matrix is room enough for an update; a copy of every matrix would be far above."""
    changes = {"layerwise": True, "checkpointing": True, "precision.weights": "bf16", "batch.sequences": 1, "batch.length": 8}
    workload = catalog.workload("llama_micro", changes)
    rule = Galore(rank=8, state_dtype="bf16_stochastic")
    parts = memory.predict(rule, workload)
    largest = 4 * max(parameter.numel() for parameter in workload.build(0, "meta").parameters())
    assert allocation.peak(rule, workload) < parts["weights"] + parts["state"] + parts["gradients"] + 6 * largest
