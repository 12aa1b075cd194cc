"""sltrain: support, gradients and memory of the sparse plus low-rank matrix."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, small_llama

from submissions.low_rank import LowRankFactors
from submissions.sltrain import Sltrain, SparseLowRank


def modules(model: torch.nn.Module) -> list[SparseLowRank]:
    return [module for module in model.modules() if isinstance(module, SparseLowRank)]


@pytest.mark.parametrize("delta", [0.0, 0.03, 0.5, 1.0])
def test_the_support_has_the_declared_size_and_no_entry_twice(delta: float) -> None:
    found = modules(Sltrain(rank=4, delta=delta).wrap(small_llama(), seed=0))
    assert len(found) == 28
    for module in found:
        m, n = module.lora_b.shape[0], module.lora_a.shape[1]
        assert len(module.values) == len(module.index.unique()) == int(delta * (m * n))
        assert torch.count_nonzero(module.effective()) == len(module.values)  # B is zero at the start
        assert not len(module.values) or module.values.abs().max() <= n**-0.5
    if 0 < delta < 1:
        assert not torch.equal(found[0].index, found[1].index)


def test_gradients_are_those_of_the_dense_matrix() -> None:
    module = modules(Sltrain(rank=3, delta=0.2).wrap(small_llama(dtype=torch.float64), seed=0))[4]
    torch.nn.init.normal_(module.lora_b)
    x = torch.randn(2, 5, module.lora_a.shape[1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: module(x), (x, module.lora_b, module.lora_a, module.values))
    assert torch.allclose(module(x), x @ module.effective().T)


def test_the_dense_matrix_is_not_kept_for_the_backward_pass() -> None:
    module = modules(Sltrain(rank=3, delta=0.1).wrap(small_llama(), seed=0))[4]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        module(torch.randn(1, 2, module.lora_a.shape[1]))
    assert kept
    assert max(kept) < module.effective().numel()


def test_without_sparse_part_it_is_the_factorisation() -> None:
    sparse, plain = Loop(Sltrain(rank=4, delta=0.0), dtype=torch.float64), Loop(LowRankFactors(rank=4, lr=3e-3), dtype=torch.float64)
    plain.model.load_state_dict(sparse.model.state_dict(), strict=False)
    assert sparse.run(8) == pytest.approx(plain.run(8), rel=1e-9)


@pytest.mark.parametrize("role", SHAPES)
@pytest.mark.parametrize("delta", [0.03, 0.1])
def test_state_of_a_matrix_is_the_declared_one(role: str, delta: float) -> None:
    submission = Sltrain(rank=5, delta=delta, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


def test_a_kill_leaves_no_trace() -> None:
    assert_resumes(Sltrain(rank=4, lr=1e-2), before=4, after=5)


def test_it_learns() -> None:
    assert_learns(Sltrain(rank=8, lr=1e-2))


@pytest.mark.parametrize(("fields", "message"), [({"delta": 1.5}, "delta"), ({"rank": 0}, "rank = 0"), ({"alpha": 0.0}, "alpha")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sltrain(**fields)  # type: ignore[arg-type]
