"""8-bit Adam: its quantiser by its definition, its step against bitsandbytes and against Adam."""

from __future__ import annotations

import pytest
import torch
from parity import Matrices, largest_difference
from torch.optim import Optimizer

from submissions import quantisation
from submissions.adam8bit import Adam8bit


def values_of(signed: bool) -> torch.Tensor:
    """All 256 values, read through the quantiser's own inverse."""
    return quantisation.dequantise(torch.arange(256, dtype=torch.uint8).view(1, 256), torch.ones(1, 1), signed, torch.ones(1)).flatten()


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_goes_to_the_nearest_code(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(1, 40_000, generator=generator) * 10 ** (-7 * torch.rand(1, 40_000, generator=generator))
    if signed:
        X *= torch.where(torch.rand(X.shape, generator=generator) < 0.5, -1.0, 1.0)
    X[:, ::256] = 1.0  # one in every block, so that values and units agree
    codes, scale = quantisation.quantise(X, signed)
    assert torch.equal(scale, torch.ones_like(scale))
    nearest = (X.unsqueeze(-1) - values_of(signed)).abs().amin(-1)
    chosen = (X - quantisation.dequantise(codes, scale, signed, X)).abs()
    torch.testing.assert_close(chosen, nearest, rtol=0, atol=1e-9)


@pytest.mark.parametrize("signed", [True, False])
def test_the_values_are_those_of_bitsandbytes(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.testing.assert_close(values_of(signed), functional.create_dynamic_map(signed), rtol=1e-6, atol=0)


def test_there_are_256_values_from_zero_to_one() -> None:
    for signed, least in ((True, -0.993), (False, 0.0)):
        values = values_of(signed)
        assert (values[1:] > values[:-1]).all()
        assert values[-1] == 1
        assert 0.0 in values
        assert values[0] == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 7), (3, 16, 16), (2, 5, 77)])
def test_zeros_and_last_blocks_survive(shape: tuple[int, ...]) -> None:
    for X in (torch.zeros(shape), torch.full(shape, 1e-3)):
        codes, scale = quantisation.quantise(X, True)
        assert codes.shape == X.shape
        assert scale.shape == (shape[0], -(-X[0].numel() // 256))
        assert torch.equal(quantisation.dequantise(codes, scale, True, X), X)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_the_adamw8bit_of_bitsandbytes(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our quantiser: on a CPU the package's own takes a neighbour of the nearest code for 3 of 100 second moments."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    cpu = pytest.importorskip("bitsandbytes.backends.cpu.ops")

    def quantise(X: torch.Tensor, code: torch.Tensor, scale: torch.Tensor, out: torch.Tensor, block: int) -> None:
        codes, scales = quantisation.quantise(X.unsqueeze(0), signed=bool(code[0] < 0), block=block)
        out.copy_(codes[0])
        scale.copy_(scales[0])

    monkeypatch.setattr(cpu, "_quant_blockwise_fp32_direct", quantise)

    def oracle(model: Matrices) -> list[Optimizer]:
        return [bitsandbytes.optim.AdamW8bit(model.parameters(), lr=1e-2, weight_decay=decay, min_8bit_size=0)]

    ours = Adam8bit(lr=1e-2, weight_decay=decay, min_8bit_size=0)
    assert max(largest_difference(ours, oracle, steps=20).values()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_tensors_are_left_to_adamw(dtype: torch.dtype) -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)]

    worst = max(largest_difference(Adam8bit(lr=1e-2, weight_decay=0.1), oracle, dtype=dtype).values())
    assert worst <= (1e-6 if dtype == torch.float32 else 1e-9)


def test_refuses_a_negative_size() -> None:
    with pytest.raises(ValueError, match="min_8bit_size = -1: expected zero or more"):
        Adam8bit(min_8bit_size=-1)
