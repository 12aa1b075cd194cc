"""Adam-mini against the authors' package, step by step where installed, else its recorded weights; and its limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop import small_llama
from parity import Matrices, largest_difference
from projection import assert_golden, final_weights, golden
from torch import nn
from torch.optim import Optimizer

from submissions.adam_mini import AdamMini
from submissions.engine import MatrixOptimizer

CASES: dict[str, dict[str, Any]] = {"plain": {}, "decay": {"weight_decay": 0.1}, "betas": {"betas": (0.9, 0.95), "eps": 1e-6}}
HEADS = 4
PACKAGE_NAMES = {"square": "q_proj", "tall": "mlp", "wide": "mlp", "head": "output", "norm": "norm"}


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch) -> list[Optimizer]:
    from adam_mini import Adam_mini

    named = [(PACKAGE_NAMES[name.split("_")[0].split(".")[0]], p) for name, p in model.named_parameters()]
    return [Adam_mini(named, lr=1e-2, dim=24, n_heads=HEADS, verbose=False, **CASES[case])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_adam_mini_is_the_package(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adam_mini")
    ours = AdamMini(lr=1e-2, heads=HEADS, **CASES[case])
    differences = largest_difference(ours, lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= (1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_adam_mini_ends_at_the_recorded_weights(case: str) -> None:
    found = final_weights(lambda model: AdamMini(lr=1e-2, heads=HEADS, **CASES[case]).optimizers(model, 0), 60)
    assert_golden(found, golden("adam_mini")[case])


def test_takes_the_heads_from_the_model() -> None:
    sizes = {}
    for optimizer in AdamMini().optimizers(small_llama(), seed=0):
        assert isinstance(optimizer, MatrixOptimizer)
        for stack in optimizer.stacks:
            sizes |= dict.fromkeys(stack.names, stack.state["v"].shape[1])
    assert sizes["layers.0.attn.q.weight"] == sizes["layers.0.attn.k.weight"] == 2
    assert sizes["layers.0.attn.v.weight"] == 16
    assert sizes["layers.0.mlp.up.weight"] == 24
    assert sizes["norm.weight"] == 1


def test_one_entry_per_block_is_adam() -> None:
    """A matrix with one column has a block per entry."""
    model = nn.Module()
    model.role = "mlp.up"  # type: ignore[assignment]
    model.weight = nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64).view(9, 1))
    twin = nn.Parameter(model.weight.detach().clone())
    (ours,) = AdamMini(lr=1e-2, heads=1).optimizers(model, seed=0)
    theirs = torch.optim.Adam([twin], lr=1e-2)
    for step in range(10):
        for parameter, optimizer in ((model.weight, ours), (twin, theirs)):
            parameter.grad = torch.sin(parameter.detach() * 3 + step)
            optimizer.step()
    torch.testing.assert_close(model.weight, twin, rtol=1e-10, atol=1e-12)


def test_needs_the_number_of_heads() -> None:
    with pytest.raises(ValueError, match="heads = None: the model has neither"):
        AdamMini().optimizers(Matrices(), seed=0)
    with pytest.raises(ValueError, match="heads = 5: expected a divisor of 24"):
        AdamMini(heads=5).optimizers(Matrices(), seed=0)
