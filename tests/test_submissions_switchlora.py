"""switchlora: a swap changes no matrix in use, and what is known of the partner is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama

from submissions.adapters import split
from submissions.base import MATRIX_ROLES
from submissions.switchlora import Switching, Switchlora, VectorAdam


def switching(model: torch.nn.Module) -> list[Switching]:
    return [module for module in model.modules() if isinstance(module, Switching)]


def test_a_swap_keeps_the_matrix_and_exchanges_the_vectors() -> None:
    for module in switching(Switchlora(rank=4).wrap(small_llama(dtype=torch.float64), seed=0)):
        with torch.no_grad():
            for turn in range(7):
                before, column, row = module.effective(), module.lora_b.clone(), module.lora_a.clone()
                new_b, new_a = module.spare_b[:, turn].clone(), module.spare_a[turn].clone()
                i = module.switch_b(turn)
                assert torch.equal(module.lora_b[:, i], new_b)
                assert torch.equal(module.spare_b[:, turn], column[:, i])
                j = module.switch_a(turn)
                assert torch.equal(module.lora_a[j], new_a)
                assert torch.equal(module.spare_a[turn], row[j])
                assert i != j
                assert torch.allclose(module.effective(), before, atol=1e-12)


def test_the_function_in_use_does_not_change_in_training() -> None:
    loop = Loop(Switchlora(rank=8, interval=10), steps=400, dtype=torch.float64)
    loop.run(2)
    loss = loss_of(loop.model, 9).item()
    weights = [module.weight.clone() for module in switching(loop.model)]
    loop.training.t = 30
    for _ in range(20):
        loop.training.t += 1
        loop.submission.after_step(loop.training)
    assert not any(torch.equal(module.weight, before) for module, before in zip(switching(loop.model), weights, strict=True))
    assert loss_of(loop.model, 9).item() == pytest.approx(loss, rel=1e-12)


def test_the_number_of_swaps_follows_the_interval() -> None:
    rule, steps = Switchlora(rank=64, interval=40.0, fade=0.1), 10_000
    expected = 0.0
    for t in range(1, 2001):
        expected += 64 / (40 * 0.3 ** -((t - 0.5) / (0.1 * steps)))
        assert abs(rule.swaps(t, steps) - expected) <= 1.01
    assert rule.swaps(0, steps) == 0


def test_without_swaps_vectors_train_by_plain_adamw() -> None:
    ours, theirs = (Switchlora(rank=4).wrap(small_llama(dtype=torch.float64), seed=0) for _ in range(2))
    own = VectorAdam(split(ours, MATRIX_ROLES)[0], Switchlora(rank=4, lr=1e-2, weight_decay=0.1), seed=0)
    members = split(theirs, MATRIX_ROLES)[0]
    reference = torch.optim.AdamW([member.parameter for member in members], lr=1e-2, weight_decay=0.1)
    for step in range(1, 11):
        for model, optimizer in ((ours, own), (theirs, reference)):
            model.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    for mine, other in zip(split(ours, MATRIX_ROLES)[0], members, strict=True):
        assert torch.allclose(mine.parameter, other.parameter, rtol=0, atol=1e-12)


def test_a_held_vector_forgets_waits_and_starts_again() -> None:
    model = Switchlora(rank=4).wrap(small_llama(), seed=0)
    rule = Switchlora(rank=4, freeze=2)
    optimizer = VectorAdam(split(model, MATRIX_ROLES)[0], rule, seed=0)
    module = switching(model)[0]

    def step() -> None:
        model.zero_grad()
        loss_of(model, 1).backward()
        optimizer.step()

    step()
    for factor, number, dimension in ((module.lora_a, 1, 0), (module.lora_b, 2, 1)):
        optimizer.hold(factor, number)
        assert not optimizer.state[factor]["m"].select(dimension, number).any()
    start = module.lora_a.detach().clone(), module.lora_b.detach().clone()
    for expected in (0, 0, 1):
        step()
        assert optimizer.state[module.lora_a]["steps"][1].item() == expected
        assert torch.equal(module.lora_a[1], start[0][1]) == (expected == 0)
        assert torch.equal(module.lora_b[:, 2], start[1][:, 2]) == (expected == 0)
        assert not torch.equal(module.lora_a[0], start[0][0])
    assert optimizer.state[module.lora_a]["steps"][0].item() == 4


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Switchlora(rank=5, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == 4 * factor_elements(submission, 5, role)


@pytest.mark.parametrize("state_dtype", ["fp32", "bf16_stochastic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("before", [2, 3])
def test_a_kill_leaves_no_trace(before: int, dtype: torch.dtype, state_dtype: Any) -> None:
    assert_resumes(Switchlora(rank=8, interval=4, freeze=2, fade=1.0, state_dtype=state_dtype), before=before, after=6, dtype=dtype)


def test_the_start_has_the_stated_spread() -> None:
    module = switching(Switchlora(rank=16).wrap(small_llama(), seed=0))[5]
    m, n = module.lora_b.shape[0], module.lora_a.shape[1]
    gain = 3**-0.5
    assert module.spare_a.std().item() == pytest.approx((m**0.5 * 16 / n**1.5) ** 0.25 * gain**0.5, rel=0.1)
    assert module.spare_b.std().item() == pytest.approx((16 / (m * n) ** 0.5) ** 0.25 * gain**0.5, rel=0.1)


def test_it_learns() -> None:
    assert_learns(Switchlora(rank=8, interval=10, dense_lr=1e-2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rank": 0}, "rank = 0"), ({"interval": 8.0}, "at least 2 freeze = 10"), ({"fade": 0.0}, "fade"), ({"freeze": -1}, "freeze")],
)
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Switchlora(**fields)  # type: ignore[arg-type]
