"""sora: the proximal step in closed form, LoRA as its limit, and what a gate does."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama
from torch import nn

from submissions import adapters
from submissions.lora import Lora
from submissions.sora import Gated, Sora, shrunk

PLAIN = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0, "clip": None, "weight_decay": 0.0}


def gated(loop: Loop) -> list[Gated]:
    return [module for _, module in adapters.factored(loop.model) if isinstance(module, Gated)]


def test_soft_threshold_minimises_the_penalised_distance() -> None:
    g = torch.linspace(-1, 1, 41, dtype=torch.float64)
    found = shrunk(g, 0.3, "soft")
    candidates = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    cost = (candidates - g[:, None]).square() / 2 + 0.3 * candidates.abs()
    assert (found - candidates[cost.argmin(1)]).abs().max() <= 1e-3 + 1e-12
    assert (found == 0).sum() == (g.abs() <= 0.3 + 1e-12).sum()


def test_the_released_threshold_kills_up_to_twice_its_size() -> None:
    g = torch.tensor([0.05, -0.15, 0.19, -0.25, 0.4])
    torch.testing.assert_close(shrunk(g, 0.1, "released"), torch.tensor([0.0, 0.0, 0.0, -0.15, 0.3]))
    torch.testing.assert_close(shrunk(g, 0.1, "soft"), torch.tensor([0.0, -0.05, 0.09, -0.15, 0.3]))


def test_without_sparsity_the_first_step_is_loras() -> None:
    # B starts at zero, so the gates have no gradient yet and A none either.
    ours, lora = (
        Loop(Sora(rank=4, alpha=8, sparsity=0.0, **PLAIN)),
        Loop(Lora(rank=4, alpha=8, rest="freeze", lr=1e-2, schedule="constant", warmup=0)),
    )  # type: ignore[arg-type]
    assert ours.run(1) == lora.run(1)
    for one, (_, other) in zip(gated(ours), adapters.factored(lora.model), strict=True):
        torch.testing.assert_close(one.effective(), other.effective())
    assert all(torch.equal(module.gate, torch.ones(4)) for module in gated(ours))


def test_gates_shrink_by_lambda_or_by_lambda_times_the_rate() -> None:
    for by_rate, size in ((False, 0.01), (True, 0.01 * 1e-2)):
        loop = Loop(Sora(rank=4, sparsity=0.01, by_rate=by_rate, **PLAIN))  # type: ignore[arg-type]
        loop.run(1)
        for module in gated(loop):
            torch.testing.assert_close(module.gate, torch.full((4,), 1 - size))


def test_a_closed_gate_leaves_no_trace_and_merging_changes_nothing() -> None:
    model = Sora(rank=4).wrap(small_llama(0, torch.float64), seed=0)
    plain = small_llama(0, torch.float64)
    for name, module in adapters.factored(model):
        assert isinstance(module, Gated)
        nn.init.normal_(module.lora_b, std=0.1)
        with torch.no_grad():
            module.gate.copy_(torch.tensor([0.0, 1.0, -0.5, 0.0]))
            before = module.effective()
            module.lora_a[0] += 1.0  # behind a closed gate
            assert torch.equal(before, module.effective())
            plain.get_submodule(name).weight.copy_(before)
    assert loss_of(model, 1).item() == pytest.approx(loss_of(plain, 1).item(), rel=1e-12)


def test_a_strong_penalty_closes_gates_and_a_weak_one_does_not() -> None:
    def closed(sparsity: float) -> int:
        loop = Loop(Sora(rank=4, sparsity=sparsity, **PLAIN))  # type: ignore[arg-type]
        loop.run(30)
        return sum(int((module.gate == 0).sum()) for module in gated(loop))

    assert closed(0.0) == 0
    assert closed(0.1) > 0


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Sora(rank=5, matrices=(role,))
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == len(gated(loop)) * factor_elements(submission, 5, role)


def test_a_kill_leaves_no_trace() -> None:
    assert_resumes(Sora(rank=4, lr=1e-2, sparsity=0.02), before=4, after=5)


def test_it_learns() -> None:
    assert_learns(Sora(rank=8, rest="train", **PLAIN | {"lr": 2e-2}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("fields", "message"), [({"rank": 0}, "rank = 0"), ({"alpha": 0.0}, "alpha"), ({"sparsity": -1.0}, "sparsity")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sora(**fields)  # type: ignore[arg-type]
