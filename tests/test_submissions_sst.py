"""sst: what iterations and rounds keep, and which gradients they use."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama

from submissions import holdings
from submissions.sst import Spectral, Sst


def spectral(model: torch.nn.Module) -> dict[str, Spectral]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Spectral)}


def test_the_start_is_the_dense_model() -> None:
    dense, model = small_llama(dtype=torch.float64), Sst(rank=3).wrap(small_llama(dtype=torch.float64), seed=0)
    assert len(spectral(model)) == 28
    for name, module in spectral(model).items():
        assert torch.allclose(module.effective(), dense.get_submodule(name).weight, atol=1e-12)
    assert loss_of(model, 1).item() == pytest.approx(loss_of(dense, 1).item(), rel=1e-12)


def test_gradients_are_the_true_ones_without_the_singular_values() -> None:
    module = spectral(Sst(rank=3).wrap(small_llama(dtype=torch.float64), seed=0))["layers.0.mlp.up"]
    x = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 24, dtype=torch.float64)
    (module(x) * weight).sum().backward()
    U, V = (part.requires_grad_() for part in module.vectors())
    sigma, x2 = module.sigma.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    ((x2 @ V * sigma) @ U.T * weight).sum().backward()
    s = module.sigma[module.index].detach()
    assert torch.allclose(module.sigma.grad, sigma.grad)
    assert torch.allclose(module.u.grad * s, U.grad[:, module.index])
    assert torch.allclose(module.v.grad * s, V.grad[:, module.index])
    assert torch.allclose(x.grad, x2.grad)


@pytest.mark.parametrize("t", [4, 24])  # an iteration, and the end of a round of ceil(16/3) of them
def test_neither_an_iteration_nor_a_round_changes_the_matrix(t: int) -> None:
    loop = Loop(Sst(rank=3, gap=4, lr=1e-2), dtype=torch.float64)
    loop.run(3)
    before = {name: (module.effective(), module.index.clone()) for name, module in spectral(loop.model).items()}
    loop.training.t = t
    loop.submission.after_step(loop.training)
    for name, module in spectral(loop.model).items():
        assert torch.allclose(module.effective(), before[name][0], atol=1e-12)
        U, V = module.vectors()
        if t == 24:
            assert torch.allclose(U.T @ U, torch.eye(16, dtype=U.dtype), atol=1e-10)
            assert torch.allclose(V.T @ V, torch.eye(16, dtype=U.dtype), atol=1e-10)
    assert any(not torch.equal(module.index, before[name][1]) for name, module in spectral(loop.model).items())
    assert not any(bool(tensor.any()) for tensor in holdings.state_tensors(loop.training.optimizers[0]))


def test_vectors_keep_unit_norm_and_values_their_sign() -> None:
    loop = Loop(Sst(rank=4, gap=3, lr=5e-2))
    for _ in range(8):
        loop.run(1)
        for module in spectral(loop.model).values():
            assert module.sigma.min() >= 0
            for vectors in (module.u, module.v):
                assert torch.allclose(vectors.norm(dim=0), torch.ones(4), atol=1e-5)


def test_large_singular_values_are_drawn_more_often() -> None:
    module = spectral(Sst(rank=1).wrap(small_llama(), seed=0))["layers.0.attn.q"]
    with torch.no_grad():
        module.sigma.fill_(0.0)
        module.sigma[5], module.sigma[9] = 3.0, 1.0
    draws = []
    for iteration in range(300):
        module.choose(1, iteration)
        draws.append(int(module.index))
    assert draws.count(5) == pytest.approx(225, abs=35)
    assert draws.count(9) == pytest.approx(75, abs=35)


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Sst(rank=5, gap=2, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(3)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


@pytest.mark.parametrize("before", [2, 3, 6])
def test_a_kill_leaves_no_trace(before: int) -> None:
    assert_resumes(Sst(rank=8, gap=3, lr=1e-2), before=before, after=4)


def test_it_learns() -> None:
    assert_learns(Sst(rank=8, gap=10, lr=1e-2))


@pytest.mark.parametrize(("fields", "message"), [({"rank": 0}, "rank = 0"), ({"gap": 0}, "gap = 0")])
def test_a_value_out_of_range_is_named(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sst(**fields)  # type: ignore[arg-type]
