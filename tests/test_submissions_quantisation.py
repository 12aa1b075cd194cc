"""Even grids of few bits; the dynamic code is tested with 8-bit Adam and 8-bit GaLore."""

from __future__ import annotations

import pytest
import torch

from submissions import quantisation


@pytest.mark.parametrize("bits", [4, 8])
def test_a_grid_holds_its_ends_and_rounds_to_the_nearest_point(bits: int) -> None:
    X = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes, step, low = quantisation.on_grid(X, bits, 64)
    back = quantisation.off_grid(codes, step, low, 64)
    assert codes.max() == 2**bits - 1
    assert step.shape == low.shape == (2, 4)
    assert ((back - X).abs() <= step.repeat_interleave(64, 1)[:, :210].view_as(X) / 2 * (1 + 1e-9)).all()
    assert torch.equal(quantisation.on_grid(back, bits, 64)[0], codes)
    assert torch.equal(back.flatten(1)[:, :64].amin(1), X.flatten(1)[:, :64].amin(1))


def test_a_constant_block_is_exact_and_noise_makes_rounding_unbiased() -> None:
    constant = torch.full((1, 4, 4), 0.3)
    assert torch.equal(quantisation.off_grid(*quantisation.on_grid(constant, 8, 8), 8), constant)
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(1, 4, 16, generator=generator, dtype=torch.float64)
    noise = torch.rand(4000, 4, 16, generator=generator, dtype=torch.float64)
    back = quantisation.off_grid(*quantisation.on_grid(X.expand(4000, 4, 16), 4, 64, noise), 64)
    torch.testing.assert_close(back.mean(0), X[0], atol=0.004, rtol=0)
    assert back.std(0).max() > 0.01
