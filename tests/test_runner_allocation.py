"""The predicted peak of a step is the one that a live step has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner import allocation, catalog, memory
from submissions import linalg
from submissions.adam import Adam
from submissions.adam8bit import Adam8bit
from submissions.eggroll import Eggroll
from submissions.fira import Fira
from submissions.galore import Galore
from submissions.lisa import Lisa
from submissions.lora import Lora


def peak(submission: Any, workload: Any, device: str = "meta") -> int:
    return allocation.peak(submission, workload, memory.prepared(submission, workload, device))


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
    assert peak(submission, workload) == pytest.approx(peak(submission, workload, "cpu"), rel=0.05)


def test_a_prediction_does_not_depend_on_an_earlier_one() -> None:
    """Constants, which are made once, count every time."""
    workload = catalog.workload("llama_nano", {"layerwise": True, "batch.sequences": 1, "batch.length": 16})
    linalg.forget_constants()
    assert peak(Adam8bit(), workload) == peak(Adam8bit(), workload)


def test_hooks_of_a_submission_are_followed_too() -> None:
    workload = catalog.workload("llama_nano")
    for submission in (Lora(rank=8, dropout=0.1), Lisa()):
        assert peak(submission, workload) == pytest.approx(peak(submission, workload, "cpu"), rel=0.05)


def test_each_saving_lowers_the_peak() -> None:
    rule = Fira(rank=32)
    steps: list[dict[str, Any]] = [{}, {"checkpointing": True}, {"checkpointing": True, "layerwise": True}]
    whole, recomputed, at_once = (peak(rule, catalog.workload("llama_nano", changes)) for changes in steps)
    assert at_once <= recomputed < 0.6 * whole
    assert peak(Fira(rank=32, state_dtype="bf16_stochastic"), catalog.workload("llama_nano")) < whole


def test_a_later_micro_batch_finds_the_gradients_of_the_first() -> None:
    whole, parts = (catalog.workload("llama_nano", {"batch.sequences": 4 * count, "batch.micro": 4}) for count in (1, 4))
    gradients = memory.predict(Adam(), whole)["gradients"]
    assert 0 < peak(Adam(), parts) - peak(Adam(), whole) <= gradients


def test_the_predicted_total_is_the_peak_and_says_so_where_it_is_a_sum() -> None:
    workload = catalog.workload("llama_nano")
    followed, added = memory.predict(Fira(rank=32), workload), memory.predict(Eggroll(), workload)
    assert followed["total"] == followed["peak"] == peak(Fira(rank=32), workload)
    assert "sum" not in memory.said(followed)
    assert added["total"] == sum(added[part] for part in ("weights", "gradients", "state", "activations"))
    assert "peak" not in added
    assert memory.said(added).endswith(" (sum)")


def test_gradients_in_bf16_cost_one_copy_in_fp32_at_a_time() -> None:
    """Twice the fp32 copy of the largest matrix is room enough for an update; a copy of every matrix would be far above."""
    changes = {"layerwise": True, "checkpointing": True, "precision.weights": "bf16", "batch.sequences": 1, "batch.length": 8}
    workload = catalog.workload("llama_micro", changes)
    rule = Galore(rank=8, state_dtype="bf16_stochastic")
    parts = memory.predict(rule, workload)
    largest = 4 * max(parameter.numel() for parameter in workload.build(0, "meta").parameters())
    assert peak(rule, workload) < parts["weights"] + parts["state"] + parts["gradients"] + 6 * largest
