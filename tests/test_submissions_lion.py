"""Lion against pytorch_optimizer, step by step where installed, else its recorded weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import Matrices, largest_difference
from projection import assert_golden, final_weights, golden
from torch.optim import Optimizer

from submissions.lion import Lion

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}
CASES: dict[str, dict[str, Any]] = {"plain": {}, "decay": {"weight_decay": 0.1}, "betas": {"betas": (0.5, 0.8)}}


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch) -> list[Optimizer]:
    from pytorch_optimizer import Lion as Oracle

    return [Oracle(model.parameters(), lr=1e-3, weight_decouple=True, **CASES[case])]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_lion_is_the_one_of_pytorch_optimizer(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_optimizer")
    differences = largest_difference(Lion(lr=1e-3, **CASES[case]), lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("case", CASES)
def test_lion_ends_at_the_recorded_weights(case: str) -> None:
    assert_golden(final_weights(lambda model: Lion(lr=1e-3, **CASES[case]).optimizers(model, 0), 60), golden("lion")[case])


def test_every_entry_moves_by_the_learning_rate() -> None:
    rule = Lion()
    G = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    U, _ = rule.update(G.clone(), rule.init(G), 1)
    assert torch.equal(U, G.sign())


def test_refuses_a_beta_of_one() -> None:
    with pytest.raises(ValueError, match=r"betas = \(0.9, 1.0\): expected two numbers in \[0, 1\)"):
        Lion(betas=(0.9, 1.0))
