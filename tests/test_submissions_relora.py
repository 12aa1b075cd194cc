"""relora: merging changes no function, resets what it says, and the schedule is jagged."""

from __future__ import annotations

import math

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of

from submissions import adapters, holdings
from submissions.lora import Lora
from submissions.relora import Relora


def test_merging_keeps_the_function_and_starts_new_factors() -> None:
    loop = Loop(Relora(rank=4, gap=100, lr=1e-2), dtype=torch.float64)
    loop.run(5)
    before = {name: (module.effective().clone(), module.lora_a.clone()) for name, module in adapters.factored(loop.model)}
    loss = loss_of(loop.model, 9).item()
    loop.training.t = 100
    loop.submission.after_step(loop.training)
    for name, module in adapters.factored(loop.model):
        product, a = before[name]
        assert torch.allclose(module.effective(), product, atol=1e-14)
        assert torch.equal(module.weight, module.effective())
        assert not module.lora_b.any()
        assert not torch.equal(module.lora_a, a)
    assert abs(loss_of(loop.model, 9).item() - loss) < 1e-12


def test_before_the_first_merge_it_is_lora() -> None:
    common = {"rank": 4, "lr": 1e-2, "schedule": "constant", "warmup": 0.0}
    assert Loop(Relora(gap=6, clip=None, **common)).run(6) == Loop(Lora(**common)).run(6)  # type: ignore[arg-type]


def test_merges_add_up_to_a_higher_rank() -> None:
    loop = Loop(Relora(rank=2, gap=4, lr=1e-2, restart_warmup=0), dtype=torch.float64)
    start = {name: module.effective().clone() for name, module in adapters.factored(loop.model)}
    loop.run(12)
    for name, module in adapters.factored(loop.model):
        assert torch.linalg.matrix_rank(module.effective() - start[name], rtol=1e-9) == 6


def test_the_dead_first_cycle_trains_no_factor_until_the_merge() -> None:
    loop = Loop(Relora(rank=4, gap=5, lr=1e-2, dead_first_cycle=True))
    start = {name: module.effective().clone() for name, module in adapters.factored(loop.model)}
    embedding = loop.model.embed.weight.clone()
    loop.run(5)
    assert all(torch.equal(module.effective(), start[name]) for name, module in adapters.factored(loop.model))
    assert not torch.equal(loop.model.embed.weight, embedding)
    loop.run(3)
    assert not any(torch.equal(module.effective(), start[name]) for name, module in adapters.factored(loop.model))


@pytest.mark.parametrize(("reset", "share"), [("zero", 1.0), ("random", 0.8), ("magnitude", 0.8), ("none", 0.0)])
def test_a_reset_forgets_the_named_share_of_the_factors_moments(reset: str, share: float) -> None:
    loop = Loop(Relora(rank=4, gap=1000, reset=reset, pruned=0.8))  # type: ignore[arg-type]
    loop.run(6)
    rest = [tensor.clone() for tensor in holdings.state_tensors(loop.training.optimizers[1])]
    before = [tensor.clone() for tensor in holdings.state_tensors(loop.training.optimizers[0]) if tensor.ndim]
    loop.training.t = 1000
    loop.submission.after_step(loop.training)
    after = [tensor for tensor in holdings.state_tensors(loop.training.optimizers[0]) if tensor.ndim]
    zeros = sum(int((tensor == 0).sum()) for tensor in after) / sum(tensor.numel() for tensor in after)
    assert zeros == pytest.approx(share, abs=0.01)
    assert all(bool(((old == new) | (new == 0)).all()) for old, new in zip(before, after, strict=True))
    if reset == "magnitude":
        kept = [(old.abs()[new != 0].min(), old.abs()[new == 0].max()) for old, new in zip(before, after, strict=True)]
        assert all(low >= high for low, high in kept)
    assert all(torch.equal(a, b) for a, b in zip(rest, holdings.state_tensors(loop.training.optimizers[1]), strict=True))


@pytest.mark.parametrize(("reset_steps", "expected"), [(False, 6), (True, 0)])
def test_the_step_counter_restarts_only_if_asked(reset_steps: bool, expected: int) -> None:
    loop = Loop(Relora(rank=4, gap=6, reset_steps=reset_steps))
    loop.run(6)
    steps = {int(tensor) for tensor in holdings.state_tensors(loop.training.optimizers[0]) if tensor.ndim == 0}
    assert steps == {expected}


def cosine(progress: float) -> float:
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def test_the_schedule_restarts_under_the_cosine() -> None:
    rule = Relora(gap=50, cycle=100, restart_warmup=10, warmup=0.02)
    assert rule.lr_factor(10, 1000) == 0.5  # 10 of 20 updates of warm-up
    assert rule.lr_factor(100, 1000) == pytest.approx(cosine(80 / 980))
    assert rule.lr_factor(101, 1000) == pytest.approx(0.1 * cosine(81 / 980))
    assert rule.lr_factor(151, 1000) == pytest.approx(cosine(131 / 980))
    released = Relora(gap=100, restart_warmup=10, warmup=0.02, released_restart=True)
    assert released.lr_factor(305, 1000) == pytest.approx(0.5 * cosine(300 / 980))
    assert released.lr_factor(311, 1000) == pytest.approx(cosine(291 / 980))


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Relora(rank=5, gap=2, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(3)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


@pytest.mark.parametrize("reset", ["zero", "random"])
@pytest.mark.parametrize("before", [2, 3])
def test_a_kill_leaves_no_trace(reset: str, before: int) -> None:
    rule = Relora(rank=4, lr=1e-2, gap=3, restart_warmup=2, reset=reset, pruned=0.5, dropout=0.1)  # type: ignore[arg-type]
    assert_resumes(rule, before=before, after=5)


def test_it_learns() -> None:
    assert_learns(Relora(rank=8, lr=2e-2, gap=20, restart_warmup=3))


@pytest.mark.parametrize(("fields", "message"), [({"gap": 0}, "gap = 0"), ({"cycle": 0}, "cycle = 0"), ({"pruned": 2.0}, "pruned")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Relora(**fields)  # type: ignore[arg-type]
