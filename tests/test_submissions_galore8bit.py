"""8-bit GaLore: its bytes against bitsandbytes, its steps against fp32 GaLore and bitsandbytes' 8-bit Adam."""

from __future__ import annotations

import pytest
import torch
from projection import assert_memory_is_exact, gradients, steps
from torch import nn

from submissions import quantisation
from submissions.galore8bit import Galore8bit


@pytest.mark.parametrize("signed", [True, False])
def test_bytes_name_the_nearest_value_of_the_code_of_bitsandbytes(signed: bool) -> None:
    """bitsandbytes' own kernel is a little less exact than its definition, so the definition is what counts."""
    functional = pytest.importorskip("bitsandbytes.functional")
    code = functional.create_dynamic_map(signed).cpu()
    torch.testing.assert_close(quantisation.dynamic_code(signed), code, atol=1e-7, rtol=0)
    X = torch.randn(1, 24, 77, generator=torch.Generator().manual_seed(0))
    X = X if signed else X.square()
    codes, scales = quantisation.quantise(X, signed)
    theirs, state = functional.quantize_blockwise(X[0], code=code, blocksize=256)
    torch.testing.assert_close(scales[0], state.absmax)
    units = X.flatten() / scales[0].repeat_interleave(256)[: X.numel()]
    distances = (units[:, None] - code).abs()
    assert (distances.gather(1, codes.flatten()[:, None].long())[:, 0] <= distances.amin(1) + 1e-7).all()
    assert (codes[0] != theirs).float().mean() < 0.05


@pytest.mark.parametrize("signed", [True, False])
def test_codes_survive_a_round_trip_and_errors_stay_below_half_a_gap(signed: bool) -> None:
    X = torch.randn(3, 5, 100, generator=torch.Generator().manual_seed(1)).abs()
    codes, scales = quantisation.quantise(X, signed)
    assert codes.shape == X.shape
    assert scales.shape == (3, 2)
    back = quantisation.dequantise(codes, scales, signed, X)
    again, same_scales = quantisation.quantise(back, signed)
    assert torch.equal(again, codes)
    torch.testing.assert_close(same_scales, scales)
    assert (back - X).abs().max() <= scales.max() * quantisation.dynamic_code(signed).diff().max() / 2 * 1.0001


def test_zeros_stay_zero() -> None:
    codes, scales = quantisation.quantise(torch.zeros(1, 4, 8), True)
    assert not quantisation.dequantise(codes, scales, True, torch.zeros(1)).any()


def test_is_adam_on_the_projection_up_to_the_rounding_of_the_moments() -> None:
    given = gradients((16, 40), 12, decay=0.97)
    rule = Galore8bit(rank=16, alpha=1.0, gap=100)
    found, state, _ = steps(rule, given)
    X = nn.Parameter(torch.zeros(1, 16, 40, dtype=torch.float64))
    adam = torch.optim.Adam([X], lr=1.0)
    for number, (U, G) in enumerate(zip(found, given, strict=True)):
        before, X.grad = X.detach().clone(), state["P"].mT @ G
        adam.step()
        error = (U - state["P"] @ (before - X.detach())).norm() / U.norm()
        assert error <= (1e-9 if number == 0 else 0.1)
    assert error > 1e-4  # bytes were kept, not floats


def test_follows_the_8bit_adam_of_bitsandbytes() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    given = [G.float() for G in gradients((64, 96), 10, decay=0.97)]
    rule = Galore8bit(rank=64, alpha=1.0, gap=100)
    found, state, _ = steps(rule, given)
    X = nn.Parameter(torch.zeros(64, 96))
    adam = bitsandbytes.optim.Adam8bit([X], lr=1.0)
    for U, G in zip(found, given, strict=True):
        before, X.grad = X.detach().clone(), (state["P"].mT @ G)[0].contiguous()
        adam.step()
        assert (U[0] - state["P"][0] @ (before - X.detach())).norm() <= 0.02 * U.norm()


def test_memory_is_exact() -> None:
    assert_memory_is_exact(Galore8bit(rank=7, gap=2))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("gap", 0)])
def test_refuses_what_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        Galore8bit(**{name: value})
