"""glentis: refactorisation keeps the product, balances the factors, and the reset forgets."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of

from submissions import adapters, holdings
from submissions.glentis import Glentis
from submissions.low_rank import LowRankFactors


def test_refactorisation_keeps_the_function_and_balances_the_factors() -> None:
    loop = Loop(Glentis(rank=5, gap=100, lr=1e-2), dtype=torch.float64)
    loop.run(6)
    before = {name: module.product() for name, module in adapters.factored(loop.model)}
    loss = loss_of(loop.model, 9).item()
    loop.training.t = 100
    loop.submission.after_step(loop.training)
    for name, module in adapters.factored(loop.model):
        assert torch.allclose(module.product(), before[name], atol=1e-13)
        s = torch.linalg.svdvals(before[name] / module.scale)[:5]
        for gram in (module.lora_b.T @ module.lora_b, module.lora_a @ module.lora_a.T):
            assert torch.allclose(gram, torch.diag(s), atol=1e-12)
    assert loss_of(loop.model, 9).item() == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("reset", [True, False])
def test_the_reset_forgets_the_factors_and_nothing_else(reset: bool) -> None:
    loop = Loop(Glentis(rank=5, gap=4, reset=reset))
    loop.run(4)
    factors, rest = ([bool(tensor.any()) for tensor in holdings.state_tensors(optimizer)] for optimizer in loop.training.optimizers)
    assert all(rest)
    assert not any(factors) if reset else all(factors)


def test_without_both_it_is_plain_low_rank_training() -> None:
    common = {"rank": 4, "lr": 1e-2}
    plain = Loop(LowRankFactors(**common)).run(12)  # type: ignore[arg-type]
    assert Loop(Glentis(gap=4, refactor=False, reset=False, **common)).run(12) == plain  # type: ignore[arg-type]
    assert Loop(Glentis(gap=4, refactor=True, reset=False, **common)).run(12)[6:] != plain[6:]  # type: ignore[arg-type]
    assert Loop(Glentis(gap=4, refactor=False, reset=True, **common)).run(12)[6:] != plain[6:]  # type: ignore[arg-type]


def test_the_learning_rate_recovers_after_each_reset_only() -> None:
    rule, plain = Glentis(gap=50, recovery=10), Glentis(gap=50, recovery=0)
    ratios = [rule.lr_factor(t, 1000) / plain.lr_factor(t, 1000) for t in (1, 50, 51, 55, 60, 61, 101)]
    assert ratios == pytest.approx([1, 1, 0.1, 0.5, 1, 1, 0.1])


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Glentis(rank=5, gap=2, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(3)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_kill_leaves_no_trace(before: int) -> None:
    assert_resumes(Glentis(rank=4, lr=1e-2, gap=3, recovery=2), before=before, after=5)


def test_bf16_factors_are_balanced_too() -> None:
    loop = Loop(Glentis(rank=4, gap=2, lr=1e-2), dtype=torch.bfloat16)
    loop.run(2)
    for _, module in adapters.factored(loop.model):
        norms = module.lora_b.float().norm(dim=0), module.lora_a.float().norm(dim=1)
        assert torch.allclose(*norms, rtol=0.02)


def test_it_learns() -> None:
    assert_learns(Glentis(rank=8, lr=1e-2, gap=20, recovery=3))


@pytest.mark.parametrize(("fields", "message"), [({"gap": 0}, "gap = 0"), ({"recovery": -1}, "recovery"), ({"rank": 0}, "rank = 0")])
def test_a_value_out_of_range_is_named(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glentis(**fields)  # type: ignore[arg-type]
