"""NAdamW: Dozat's schedule against torch, AlgoPerf's constant momentum against its definition."""

from __future__ import annotations

import pytest
import torch
from parity import Matrices, fill_gradients, largest_difference
from torch.optim import Optimizer

from submissions.nadamw import Nadamw

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_a_momentum_schedule_it_is_torch_nadam(decay: float, dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.NAdam(model.parameters(), lr=1e-2, weight_decay=decay, decoupled_weight_decay=True)]

    ours = Nadamw(lr=1e-2, weight_decay=decay, momentum_decay=0.004)
    assert max(largest_difference(ours, oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


def test_with_constant_momentum_it_is_adam_on_the_next_momentum() -> None:
    """AlgoPerf's rule is AdamW whose first moment takes the gradient a second time before it is used."""
    ours = Matrices(torch.float64)
    theirs = Matrices(torch.float64)
    (optimizer,) = Nadamw(lr=1e-2, weight_decay=0.1).optimizers(ours, seed=0)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in theirs.named_parameters()}
    for t in range(1, 21):
        fill_gradients(ours, t, 0.02)
        fill_gradients(theirs, t, 0.02)
        optimizer.step()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                assert p.grad is not None
                m, v = moments[name]
                m.copy_(0.9 * m + 0.1 * p.grad)
                v.copy_(0.999 * v + 0.001 * p.grad**2)
                direction = (0.9 * m + 0.1 * p.grad) / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                p.copy_(p * (1 - 1e-2 * 0.1) - 1e-2 * direction)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def test_refuses_a_negative_momentum_decay() -> None:
    with pytest.raises(ValueError, match="momentum_decay = -1: expected a positive number or null"):
        Nadamw(momentum_decay=-1)
