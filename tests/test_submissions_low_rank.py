"""low_rank: the matrix is its factors and nothing else."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama

from submissions import adapters
from submissions.low_rank import LowRankFactors


def test_at_full_rank_the_svd_of_the_start_is_the_start() -> None:
    dense = small_llama(dtype=torch.float64)
    model = LowRankFactors(rank=16, init="svd").wrap(small_llama(dtype=torch.float64), seed=0)
    for name, module in adapters.factored(model):
        assert torch.allclose(module.effective(), dense.get_submodule(name).weight, atol=1e-12)
    assert abs((loss_of(model, 1) - loss_of(dense, 1)).item()) < 1e-12


def test_a_lower_rank_is_the_best_approximation_in_balanced_factors() -> None:
    dense = small_llama(dtype=torch.float64)
    model = LowRankFactors(rank=5, init="svd").wrap(small_llama(dtype=torch.float64), seed=0)
    for name, module in adapters.factored(model):
        s = torch.linalg.svdvals(dense.get_submodule(name).weight)
        error = torch.linalg.matrix_norm(module.effective() - dense.get_submodule(name).weight)
        assert torch.allclose(error, s[5:].norm(), rtol=1e-10)
        for gram in (module.lora_b.T @ module.lora_b, module.lora_a @ module.lora_a.T):
            assert torch.allclose(gram, torch.diag(s[:5]), atol=1e-12)


def test_no_dense_matrix_is_left() -> None:
    model = LowRankFactors(rank=3).wrap(small_llama(), seed=0)
    expected = sum(3 * sum(weight.shape) for name, weight in small_llama().named_parameters() if weight.ndim == 2 and "layers" in name)
    assert sum(p.numel() for name, p in model.named_parameters() if "lora_" in name) == expected
    assert not [name for name, p in model.named_parameters() if "layers" in name and name.endswith("weight") and p.ndim == 2]


def test_kaiming_factors_have_the_released_scale() -> None:
    model = LowRankFactors(rank=16).wrap(small_llama(), seed=0)
    a = torch.cat([module.lora_a.flatten() * module.lora_a.shape[1] ** 0.5 for _, module in adapters.factored(model)])
    b = torch.cat([module.lora_b.flatten() * 4 for _, module in adapters.factored(model)])
    for entries in (a, b):
        assert entries.abs().max() <= 1
        assert abs(entries.var().item() - 1 / 3) < 0.02
    assert {module.scale for _, module in adapters.factored(model)} == {2.0}


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = LowRankFactors(rank=5, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


@pytest.mark.parametrize("init", ["kaiming", "svd"])
def test_a_kill_leaves_no_trace(init: str) -> None:
    assert_resumes(LowRankFactors(rank=4, lr=1e-2, init=init), before=4, after=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", ["kaiming", "svd"])
def test_it_learns(init: str) -> None:
    assert_learns(LowRankFactors(rank=8, lr=1e-2, init=init))  # type: ignore[arg-type]


@pytest.mark.parametrize(("fields", "message"), [({"rank": 0}, "rank = 0"), ({"alpha": -1.0}, "alpha")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowRankFactors(**fields)  # type: ignore[arg-type]
