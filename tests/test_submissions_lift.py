"""lift: the mask in closed form, full masks are AdamW, and what a new mask keeps."""

from __future__ import annotations

import pytest
import torch
from loop import HIDDEN, LAYERS, MLP, SHAPES, Loop, assert_learns, assert_resumes, factor_elements
from torch import nn

from submissions.engine import Named
from submissions.lift import Lift, PrincipalAdam, principal, select


def optimizer_of(loop: Loop) -> PrincipalAdam:
    (found,) = [optimizer for optimizer in loop.training.optimizers if isinstance(optimizer, PrincipalAdam)]
    return found


def test_principal_weights_of_a_matrix_whose_approximation_is_known() -> None:
    # Two orthogonal rank-one parts: the strong one is small and flat, the weak one has the single largest entry of W.
    strong = torch.zeros(6, 8, dtype=torch.float64)
    strong[:3, :4] = 1.0  # singular value sqrt(12)
    W = strong.clone()
    W[5, 7] = 3.0  # singular value 3
    assert principal(W, 12, 1).tolist() == strong.flatten().nonzero().flatten().tolist()
    assert 5 * 8 + 7 in principal(W, 12, 2).tolist()


def test_from_the_short_side_on_the_mask_is_by_magnitude() -> None:
    W = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_size = W.abs().flatten().topk(9).indices.sort().values
    assert torch.equal(principal(W, 9, 5), by_size)
    assert torch.equal(principal(W, 9, 64), by_size)
    assert not torch.equal(principal(W, 9, 1), by_size)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_every_entry_it_is_adamw(decay: float) -> None:
    ours, theirs = (nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)) for _ in range(2))
    rule = Lift(rank=2, filter_rank=1, gap=3, lr=1e-2, weight_decay=decay)
    one = PrincipalAdam([Named("w", ours)], rule)
    other = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        ours.grad = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_only_the_chosen_entries_move_and_they_hold_until_the_next_mask() -> None:
    loop = Loop(Lift(rank=2, filter_rank=4, gap=3, lr=1e-2, schedule="constant", warmup=0))
    before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    loop.run(3)
    moved = {name: int((p != before[name]).sum()) for name, p in loop.model.named_parameters()}
    for name, p in loop.model.named_parameters():
        treated = ".attn." in name or ".mlp." in name
        assert moved[name] == (2 * sum(p.shape) if treated else 0), name
    loop.run(1)  # a new mask: some entries move for the first time
    assert any(int((p != before[name]).sum()) > moved[name] for name, p in loop.model.named_parameters())


def test_a_new_mask_keeps_the_moments_of_the_entries_it_shares() -> None:
    W = nn.Parameter(torch.arange(16.0).view(4, 4))
    rule = Lift(rank=1, filter_rank=4)
    optimizer = PrincipalAdam([Named("w", W)], rule)
    state = optimizer.state[W]
    state["index"].copy_(torch.arange(4, 12, dtype=torch.int32))
    state["m"].copy_(torch.arange(4.0, 12.0))
    state["v"].copy_(torch.arange(4.0, 12.0))
    select(W, state, rule)
    assert state["index"].tolist() == list(range(8, 16))
    assert state["m"].tolist() == state["v"].tolist() == [8.0, 9.0, 10.0, 11.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Lift(rank=3, matrices=(role,))
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == LAYERS * factor_elements(submission, 3, role)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kill_leaves_no_trace(dtype: torch.dtype) -> None:
    assert_resumes(Lift(rank=2, gap=3, lr=1e-2, rest="train"), before=4, after=5, dtype=dtype)


def test_it_learns() -> None:
    assert_learns(Lift(rank=4, gap=10, lr=2e-2, rest="train"))


def test_more_entries_than_a_matrix_has_are_refused() -> None:
    with pytest.raises(ValueError, match=f"rank = 9: expected at most {HIDDEN // 2} for a matrix of {HIDDEN} x {HIDDEN}"):
        Loop(Lift(rank=9))
    assert MLP > HIDDEN


@pytest.mark.parametrize("fields", [{"rank": 0}, {"filter_rank": 0}, {"gap": 0}, {"weight_decay": -1.0}, {"betas": (0.9, 1.0)}])
def test_a_value_out_of_range_is_named(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Lift(**fields)  # type: ignore[arg-type]
