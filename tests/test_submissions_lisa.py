"""lisa: who trains when, and what is remembered of the others."""

from __future__ import annotations

import pytest
import torch
from loop import HIDDEN, LAYERS, MLP, VOCAB, Loop, assert_learns, assert_resumes, loss_of, small_llama

from submissions.lisa import Lisa

LAYER = 4 * HIDDEN**2 + 3 * HIDDEN * MLP + 2 * HIDDEN
OUTSIDE = 2 * VOCAB * HIDDEN + HIDDEN


def trained_layers(loop: Loop) -> set[int]:
    return {int(name.split(".")[1]) for name, p in loop.model.named_parameters() if p.requires_grad and name.startswith("layers.")}


def test_frozen_layers_do_not_move_by_a_bit_and_the_rest_does() -> None:
    loop = Loop(Lisa(gamma=1, gap=1, lr=1e-2))
    seen = set()
    for _ in range(20):
        before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
        loop.run(1)
        (active,) = trained_layers(loop)
        seen.add(active)
        moved = {name for name, p in loop.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for name in before if not name.startswith("layers.") or name.startswith(f"layers.{active}.")}
    assert len(seen) == LAYERS


def test_all_layers_at_once_are_plain_adamw() -> None:
    loop = Loop(Lisa(gamma=LAYERS, gap=1000, lr=1e-2, weight_decay=0.1, schedule="constant", warmup=0), dtype=torch.float64)
    loop.run(10)
    other = small_llama(dtype=torch.float64)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(1, 11):
        optimizer.zero_grad()
        loss_of(other, step).backward()
        optimizer.step()
    for mine, theirs in zip(loop.model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1, 3])
def test_state_is_that_of_the_active_layers(gamma: int) -> None:
    loop = Loop(Lisa(gamma=gamma, gap=2))
    tensors = 3 + 9 * gamma
    for _ in range(4):
        loop.run(3)
        assert loop.state_elements() == 2 * (OUTSIDE + gamma * LAYER) + tensors


def test_kept_state_grows_to_that_of_full_adam() -> None:
    loop = Loop(Lisa(gamma=1, gap=1, keep_state=True))
    loop.run(1)
    assert loop.state_elements() == 2 * (OUTSIDE + LAYER) + 3 + 9
    loop.run(25)
    assert loop.state_elements() == 2 * (OUTSIDE + LAYERS * LAYER) + 3 + 9 * LAYERS


def test_kept_states_are_taken_up_again_and_dropped_ones_are_not() -> None:
    counts = {}
    for keep_state in (False, True):
        loop = Loop(Lisa(gamma=1, gap=2, keep_state=keep_state))
        loop.run(20)
        states = [state for optimizer in loop.training.optimizers[1:] for state in optimizer.state.values()]
        counts[keep_state] = {int(state["step"]) for state in states}
    assert counts[False] == {2}
    assert sum(counts[True]) >= 10
    assert max(counts[True]) > 2


def test_the_draw_depends_on_the_seed_and_the_period_alone() -> None:
    model = small_llama()
    draws = [[m.name for m in Lisa(gamma=2).selected(model, seed, period)] for seed in (0, 1) for period in range(6)]
    again = [[m.name for m in Lisa(gamma=2).selected(model, seed, period)] for seed in (0, 1) for period in range(6)]
    assert draws == again
    assert draws[:6] != draws[6:]
    assert len({tuple(draw) for draw in draws}) > 2


@pytest.mark.parametrize("keep_state", [False, True])
@pytest.mark.parametrize("before", [2, 3, 6])
def test_a_kill_leaves_no_trace(keep_state: bool, before: int) -> None:
    assert_resumes(Lisa(gamma=1, gap=3, lr=1e-2, keep_state=keep_state), before=before, after=5)


def test_it_learns() -> None:
    assert_learns(Lisa(gamma=2, gap=5, lr=1e-2))


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma = 5: expected at most 4, the layers of this model"):
        Lisa(gamma=5).wrap(small_llama(), seed=0)


def test_kept_state_needs_the_dtype_of_the_weights() -> None:
    with pytest.raises(ValueError, match="keep_state"):
        Loop(Lisa(gamma=1, keep_state=True), dtype=torch.bfloat16)


@pytest.mark.parametrize(("fields", "message"), [({"gap": 0}, "gap = 0"), ({"gamma": 0}, "gamma = 0")])
def test_a_value_out_of_range_is_named(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lisa(**fields)  # type: ignore[arg-type]
