"""lost: the start is the SVD split of the matrix, and both parts train."""

from __future__ import annotations

import math

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, small_llama
from torch.nn import functional as F

from submissions.lost import Lost, LowRankAndChannels


def split(rule: Lost) -> list[tuple[torch.Tensor, LowRankAndChannels]]:
    """(initial matrix, what stands in its place) of each treated matrix."""
    dense, model = small_llama(dtype=torch.float64), rule.wrap(small_llama(dtype=torch.float64), seed=0)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LowRankAndChannels)]
    assert len(found) == 28
    return [(dense.get_submodule(name).weight.detach(), module) for name, module in found]


@pytest.mark.parametrize("rank", [3, 16])
def test_all_channels_and_the_identity_restore_the_matrix(rank: int) -> None:
    for W, module in split(Lost(rank=rank, share=1.0, activation="identity")):
        x = torch.randn(5, W.shape[1], dtype=torch.float64)
        assert torch.allclose(2 * module(x), x @ W.T, atol=1e-12)


def test_the_channels_are_the_largest_of_the_remainder() -> None:
    for W, module in split(Lost(rank=5, share=0.3)):
        U, s, Vt = torch.linalg.svd(W, full_matrices=False)
        remainder = (U[:, 5:] * s[5:]) @ Vt[5:]
        norms = remainder.norm(dim=0)
        others = torch.ones(len(norms), dtype=torch.bool)
        others[module.index] = False
        assert len(module.index.unique()) == math.ceil(0.3 * len(norms))
        assert norms[module.index].min() >= norms[others].max()
        assert torch.allclose(module.channels, remainder[:, module.index], atol=1e-12)
        assert torch.allclose(module.lora_b.T @ module.lora_b, torch.diag(s[:5]), atol=1e-12)


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "identity"])
def test_the_output_is_the_weighted_sum(activation: str) -> None:
    _, module = split(Lost(rank=4, gamma=0.7, share=0.2, activation=activation))[6]  # type: ignore[arg-type]
    x = torch.randn(3, module.lora_a.shape[1], dtype=torch.float64)
    inside = x @ module.lora_a.T
    inside = inside if activation == "identity" else getattr(F, activation)(inside)
    expected = 0.7 * inside @ module.lora_b.T + 0.3 * x[:, module.index] @ module.channels.T
    assert torch.allclose(module(x), expected)


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Lost(rank=5, share=0.3, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


def test_a_kill_leaves_no_trace() -> None:
    assert_resumes(Lost(rank=4, lr=1e-2), before=3, after=3)


@pytest.mark.parametrize("activation", ["silu", "identity"])
def test_it_learns(activation: str) -> None:
    assert_learns(Lost(rank=8, lr=1e-2, activation=activation))  # type: ignore[arg-type]


@pytest.mark.parametrize(("fields", "message"), [({"rank": 0}, "rank = 0"), ({"gamma": 1.5}, "gamma"), ({"share": -0.1}, "share")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lost(**fields)  # type: ignore[arg-type]
