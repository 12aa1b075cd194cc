"""Adafactor against the rule of `transformers`."""

from __future__ import annotations

import pytest
import torch
from parity import Matrices, largest_difference
from torch.optim import Optimizer

from submissions.adafactor import Adafactor

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-9}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("beta1", "decay", "threshold"), [(None, 0.0, 1.0), (None, 0.1, 0.5), (0.9, 0.1, 1.0)])
def test_adafactor_is_the_one_of_transformers(beta1: float | None, decay: float, threshold: float, dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")

    def oracle(model: Matrices) -> list[Optimizer]:
        options = {"scale_parameter": False, "relative_step": False, "clip_threshold": threshold, "beta1": beta1}
        return [transformers.Adafactor(model.parameters(), lr=1e-2, weight_decay=decay, eps=(1e-30, 1e-3), **options)]

    ours = Adafactor(lr=1e-2, beta1=beta1, weight_decay=decay, clip_threshold=threshold)
    assert max(largest_difference(ours, oracle, dtype=dtype).values()) <= TOLERANCE[dtype]


def test_a_rank_one_square_is_factored_exactly() -> None:
    """If G^2 is an outer product, the factored second moment is the whole one and the first update is the sign of G."""
    generator = torch.Generator().manual_seed(0)
    G = (torch.rand(1, 7, 1, generator=generator) + 0.1) @ (torch.rand(1, 1, 5, generator=generator) + 0.1)
    G *= torch.where(torch.rand(G.shape, generator=generator) < 0.5, -1.0, 1.0)
    rule = Adafactor()
    U, _ = rule.update(G.clone(), rule.init(G), 1)
    torch.testing.assert_close(U, G.sign())


def test_no_update_exceeds_the_threshold() -> None:
    rule = Adafactor(clip_threshold=0.5)
    G = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0))
    state = rule.init(G)
    for t, factor in enumerate((1.0, 100.0, 1e-3), start=1):
        U, _ = rule.update(G * factor, state, t)
        assert U.square().mean((1, 2)).sqrt().max() <= 0.5 * (1 + 1e-5)


def test_refuses_a_positive_exponent() -> None:
    with pytest.raises(ValueError, match=r"decay_rate = 0.8: expected a number in \[-1, 0\)"):
        Adafactor(decay_rate=0.8)
