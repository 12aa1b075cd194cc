"""AdamW against torch's, and what is exempt from its decay."""

from __future__ import annotations

import pytest
import torch
from parity import Matrices, largest_difference
from torch.optim import Optimizer

from submissions.adamw import Adamw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_torch_adamw(decay: float, dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)]

    worst = max(largest_difference(Adamw(lr=1e-2, weight_decay=decay), oracle, dtype=dtype).values())
    assert worst <= (1e-6 if dtype == torch.float32 else 1e-9)


def test_only_matrices_decay_if_so_wished() -> None:
    model = Matrices()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in Adamw(lr=0.5, weight_decay=0.1, decayed="matrices").optimizers(model, seed=0):
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if name == "norm.weight" else 0.95))


def test_refuses_a_negative_decay() -> None:
    with pytest.raises(ValueError, match=r"weight_decay = -1: expected zero or more"):
        Adamw(weight_decay=-1)
