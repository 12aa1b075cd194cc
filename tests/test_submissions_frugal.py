"""FRUGAL by its limits and parts: the published code has no package to compare with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import SHAPES, Matrices, fill_gradients, largest_difference
from projection import assert_memory_is_exact, assert_resumes_bit_identically, gradients, steps, train
from torch.optim import AdamW, Optimizer

from submissions import engine
from submissions.frugal import Blocks, Frugal

SPLITS = ["column", "svd", "random"]


def adamw(model: Matrices) -> list[Optimizer]:
    return [AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)]


@pytest.mark.parametrize("split", ["column", "block"])
def test_with_the_whole_gradient_it_is_torch_adamw(split: Any) -> None:
    ours = Frugal(rho=1.0, split=split, gap=1000, weight_decay=0.1)
    assert max(largest_difference(ours, adamw, dtype=torch.float64).values()) <= 1e-9


@pytest.mark.parametrize("split", ["svd", "random"])
def test_with_a_whole_basis_it_is_adam_in_that_basis(split: Any) -> None:
    given = gradients((6, 10), 5)
    found, state, _ = steps(Frugal(rho=1.0, split=split, gap=100), given)
    P = state["P"]
    torch.testing.assert_close(P.mT @ P, torch.eye(6, dtype=torch.float64)[None])
    adam, _, _ = steps(Frugal(rho=1.0, gap=100), [P.mT @ G for G in given])
    for one, other in zip(found, adam, strict=True):
        torch.testing.assert_close(one, P @ other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("split", [*SPLITS, "block"])
def test_with_nothing_it_is_sign_descent_without_state(split: Any) -> None:
    rule = Frugal(rho=0.0, split=split, lr=1e-3)
    model, start = Matrices(), Matrices()
    optimizer = rule.optimizers(model, 0)[0]
    assert isinstance(optimizer, engine.MatrixOptimizer)
    assert sum(value.numel() for stack in optimizer.stacks for key, value in stack.state.items() if key != "seed_b") == 0
    fill_gradients(model, 0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name.split("_")[0] in SHAPES:
            assert torch.equal(parameter, start.get_parameter(name).add(parameter.grad.sign(), alpha=-1e-3))


@pytest.mark.parametrize("split", SPLITS)
def test_memory_is_exact(split: Any) -> None:
    assert_memory_is_exact(Frugal(split=split, gap=2))


def test_only_the_blocks_at_work_have_state_and_the_turn_comes_back() -> None:
    rule = Frugal(split="block", rho=1 / 3, gap=2)
    model = Matrices()
    optimizer = rule.optimizers(model, 0)[0]
    assert isinstance(optimizer, Blocks)
    seen = []
    for step in range(8):
        fill_gradients(model, step)
        optimizer.step()
        busy = [name for stack in optimizer.stacks if stack.state["m"].numel() for name in stack.names]
        measured = sum(value.numel() for stack in optimizer.stacks for value in stack.state.values())
        assert measured == 2 * sum(model.get_parameter(name).numel() for name in busy)
        seen.append(busy)
    wide, tall, square = ([f"{shape}_{copy}.weight" for copy in "ab"] for shape in ("wide", "tall", "square"))
    assert seen == [wide] * 2 + [tall] * 2 + [square] * 2 + [wide] * 2


@pytest.mark.parametrize("order", ["ascending", "random"])
def test_other_turns(order: Any) -> None:
    rule = Frugal(split="block", rho=1 / 3, gap=2, order=order)
    optimizer = rule.optimizers(Matrices(), 0)[0]
    assert isinstance(optimizer, Blocks)
    turns = [optimizer.chosen(t) for t in (1, 2, 3, 5, 7)]
    assert all(len(turn) == 2 and turn <= set(range(6)) for turn in turns)
    assert turns[0] == turns[1] != turns[2]
    if order == "ascending":
        assert turns == [{0, 1}, {0, 1}, {2, 3}, {4, 5}, {0, 1}]


@pytest.mark.parametrize("split", ["column", "block"])
def test_resumes_bit_identically_inside_a_period(split: Any) -> None:
    assert_resumes_bit_identically(Frugal(split=split, gap=3, rho=0.5))


def test_bf16_states_of_blocks_are_stored_in_bf16() -> None:
    rule = Frugal(split="block", state_dtype="bf16")
    model = Matrices(torch.bfloat16)
    optimizers = rule.optimizers(model, 0)
    train(model, optimizers, 0, 2)
    assert isinstance(optimizers[0], Blocks)
    assert {value.dtype for stack in optimizers[0].stacks for value in stack.state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("split", SPLITS)
def test_the_rest_moves_by_the_sign_of_its_remainder(split: Any) -> None:
    G = gradients((8, 12), 1)[0]
    full, state, _ = steps(Frugal(split=split, rho=0.5, free_lr=0.3), [G])
    part, _, _ = steps(Frugal(split=split, rho=0.5, free="none"), [G])
    P = torch.zeros(1, 8, 4, dtype=G.dtype).scatter_(-2, state["index"][:, None], 1.0) if split == "column" else state["P"]
    remainder = G - P @ (P.mT @ G)
    expected = torch.where(remainder.abs() > 1e-15, 0.3 * remainder.sign(), 0.0)
    torch.testing.assert_close(full[0] - part[0], expected)
    torch.testing.assert_close(part[0] - P @ (P.mT @ part[0]), torch.zeros_like(G))


def test_identity_is_gradient_descent_on_the_rest() -> None:
    G = gradients((8, 12), 1)[0]
    U, state, _ = steps(Frugal(split="column", rho=0.5, free="identity", free_lr=2.0), [G])
    free = torch.ones(8, dtype=torch.bool).scatter(0, state["index"][0], False)
    torch.testing.assert_close(U[0][0, free], 2.0 * G[0, free])


@pytest.mark.parametrize("split", SPLITS)
def test_a_new_period_forgets_moments_and_count(split: Any) -> None:
    given = gradients((8, 12), 7)
    rule = Frugal(split=split, gap=3)
    found, _, _ = steps(rule, given)
    state = rule.init(torch.zeros_like(given[0])) | ({"seed_b": torch.tensor([7])} if rule.seeded else {})
    again, _, _ = steps(rule, given[3:], state, start=4)
    assert all(torch.equal(one, other) for one, other in zip(found[3:], again, strict=True))


@pytest.mark.parametrize(("values", "message"), [({"rho": 1.5}, "rho"), ({"gap": 0}, "gap"), ({"free_lr": -1.0}, "free_lr")])
def test_refuses_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} = .*expected"):
        Frugal(**values)
