"""Schedule-free AdamW against pytorch_optimizer, step by step where installed, else its recorded weights; and its averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loop import assert_resumes
from parity import Matrices, fill_gradients, largest_difference
from projection import assert_golden, final_weights, golden
from torch.optim import Optimizer

from submissions import pieces
from submissions.base import Training
from submissions.schedule_free import ScheduleFree

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "weights": {"r": 1.0, "weight_lr_power": 0.0, "betas": (0.7, 0.99)},
}


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch) -> list[Optimizer]:
    from pytorch_optimizer import ScheduleFreeAdamW

    # It adds 1e-15 to v_hat as well, which the released code does not.
    patch.setattr(
        ScheduleFreeAdamW, "apply_ams_bound", staticmethod(lambda ams_bound, exp_avg_sq, max_exp_avg_sq, eps: exp_avg_sq.sqrt() + eps)
    )
    patch.setattr(
        ScheduleFreeAdamW, "apply_ams_bound_foreach", staticmethod(lambda ams_bound, v, largest, eps: [x.sqrt() + eps for x in v])
    )
    return [ScheduleFreeAdamW(model.parameters(), lr=1e-2, **CASES[case])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_schedule_free_is_the_one_of_pytorch_optimizer(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_optimizer")
    differences = largest_difference(ScheduleFree(lr=1e-2, **CASES[case]), lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= (1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_schedule_free_ends_at_the_recorded_weights(case: str) -> None:
    found = final_weights(lambda model: ScheduleFree(lr=1e-2, **CASES[case]).optimizers(model, 0), 60)
    assert_golden(found, golden("schedule_free")[case])


def test_evaluates_the_average_of_z_and_returns_the_same_bits() -> None:
    submission, model = ScheduleFree(lr=1e-2), Matrices(torch.float64)
    training = Training(model, seed=0, steps=10, optimizers=submission.optimizers(model, 0))
    (optimizer,) = training.optimizers
    parameter = model.get_parameter("tall_a.weight")
    visited = []
    for step in range(6):
        fill_gradients(model, step, 0.02)
        optimizer.step()
        visited.append(optimizer.state[parameter]["z"].clone())
    before = [p.detach().clone() for p in model.parameters()]
    with submission.for_eval(training):
        average = parameter.detach().clone()
    torch.testing.assert_close(average, torch.stack(visited).mean(0), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_in_pieces_are_steps_of_everything(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for size in (64, 2**20):
        monkeypatch.setattr(pieces, "CPU_PIECE", size)
        model = Matrices(dtype)
        (optimizer,) = ScheduleFree(lr=1e-2, weight_decay=0.1).optimizers(model, 0)
        for step in range(5):
            fill_gradients(model, step)
            optimizer.step()
        ends.append([parameter.detach() for parameter in model.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-6 if dtype == torch.float32 else 2**-7, atol=1e-7)


def test_bf16_weights_follow_their_fp32_iterates() -> None:
    submission, exact, short = ScheduleFree(lr=1e-2), Matrices(), Matrices(torch.bfloat16)
    ours, theirs = (submission.optimizers(model, 0)[0] for model in (short, exact))
    for step in range(20):
        fill_gradients(short, step)
        fill_gradients(exact, step)
        ours.step()
        theirs.step()
    for mine, reference in zip(short.parameters(), exact.parameters(), strict=True):
        assert {value.dtype for value in ours.state[mine].values()} == {torch.float32}
        torch.testing.assert_close(mine.float(), reference, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_kill_leaves_no_trace(dtype: torch.dtype) -> None:
    assert_resumes(ScheduleFree(lr=1e-2), before=3, after=4, dtype=dtype)


def test_its_learning_rate_stays_after_the_warm_up() -> None:
    assert [ScheduleFree(warmup=0.5).lr_factor(t, 10) for t in (1, 5, 6, 10)] == [0.2, 1.0, 1.0, 1.0]


def test_refuses_to_divide_by_zero() -> None:
    with pytest.raises(ValueError, match=r"betas = \(0.0, 0.9\): expected a first number in \(0, 1\)"):
        ScheduleFree(betas=(0.0, 0.9))
