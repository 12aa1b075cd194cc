"""Q-GaLore by its parts: the released classes run neither on a CPU nor with today's bitsandbytes."""

from __future__ import annotations

import pytest
import torch
from parity import SHAPES, Matrices, fill_gradients
from projection import assert_memory_is_exact, gradients, steps, train
from torch import Tensor

from submissions import linalg
from submissions.q_galore import QGalore, to_grid


def on_grid(W: Tensor) -> bool:
    """Whether each 256 consecutive entries take at most 256 evenly spaced values."""
    return all(
        torch.allclose(steps := (block - block.min()) / ((block.max() - block.min()) / 255), steps.round(), atol=1e-3)
        for block in W.flatten().split(256)
    )


def test_half_bytes_hold_the_projection_to_half_a_step() -> None:
    G = gradients((9, 14), 1)[0]
    rule = QGalore(rank=5)
    _, state, _ = steps(rule, [G])
    P, kept = linalg.leading_left(G, 5), rule.basis(state, 9, G)
    assert state["P"].numel() == 23
    assert (kept - P).abs().max() <= (P.max() - P.min()) / 15 / 2 * 1.001
    assert kept.unique().numel() <= 16


def test_steps_are_adam_on_the_quantised_projection() -> None:
    given = gradients((9, 40), 8, decay=0.97)
    rule = QGalore(rank=5, alpha=1.0)
    found, state, _ = steps(rule, given)
    P = rule.basis(state, 9, given[0])
    X = torch.nn.Parameter(torch.zeros(1, 5, 40, dtype=torch.float64))
    adam = torch.optim.Adam([X], lr=1.0)
    for number, (U, G) in enumerate(zip(found, given, strict=True)):
        before, X.grad = X.detach().clone(), P.mT @ G
        adam.step()
        assert (U - P @ (before - X.detach())).norm() <= (1e-9 if number == 0 else 0.1) * U.norm()


def test_the_gap_doubles_while_the_first_direction_stays() -> None:
    constant = gradients((8, 12), 1) * 40
    _, _, probes = steps(QGalore(rank=3, gap=2, queue=3), constant)
    gaps = [int(probe["gap"].item()) for probe in probes]
    # refreshes at 1, 3, 5 fill the queue at 7, which doubles the gap; then at 7 + 4, 11 + 8, 19 + 16
    assert [t for t in range(2, 41) if gaps[t - 1] != gaps[t - 2]] == [7, 11, 19, 35]
    assert gaps[-1] == 32


def test_each_matrix_has_its_own_gap_and_threshold_above_one_never_doubles() -> None:
    still, moving = gradients((8, 12), 1)[0], gradients((8, 12), 20, seed=1, decay=0.99)
    given = [torch.cat([still, G]) for G in moving]
    _, state, _ = steps(QGalore(rank=3, gap=2, queue=3, similarity=0.95), given)
    assert state["gap"].tolist() == [16, 2]
    assert state["next"][1] == 21
    _, state, _ = steps(QGalore(rank=3, gap=2, queue=3, similarity=1.1), given)
    assert state["gap"].tolist() == [2, 2]


def test_between_its_refreshes_a_matrix_keeps_its_projection() -> None:
    still, moving = gradients((8, 12), 1)[0], gradients((8, 12), 12, seed=1, decay=0.99)
    rule, state, changes = QGalore(rank=3, gap=2, queue=2, similarity=0.95), None, [[], []]
    for t, G in enumerate(moving, 1):
        before = None if state is None else state["P"].clone()
        _, state, _ = steps(rule, [torch.cat([still + 1e-3 * G, G])], state, t)
        for k in range(2):
            if before is not None and not torch.equal(before[k], state["P"][k]):
                changes[k].append(t)
    assert changes[1] == [3, 5, 7, 9, 11]
    assert set(changes[0]) <= {3, 5, 9}


def test_weights_stay_on_their_grids_and_all_else_does_not() -> None:
    rule = QGalore(rank=4)
    model = rule.wrap(Matrices(), 0)
    assert isinstance(model, Matrices)
    optimizers = rule.optimizers(model, 0)
    for step in range(3):
        assert all(on_grid(p.detach()) == (name.split("_")[0] in SHAPES) for name, p in model.named_parameters() if p.ndim == 2)
        train(model, optimizers, step, step + 1)


def test_without_int8_weights_they_are_free() -> None:
    rule = QGalore(rank=4, int8_weights=False)
    model, start = rule.wrap(Matrices(), 0), Matrices()
    assert all(torch.equal(p, start.get_parameter(name)) for name, p in model.named_parameters())
    train(model, rule.optimizers(model, 0), 0, 1)  # type: ignore[arg-type]  # still the same class
    assert not on_grid(model.square_a.weight.detach())  # type: ignore[union-attr, operator]


def test_random_rounding_lets_updates_below_a_grid_step_through_on_the_mean() -> None:
    rule = QGalore(rank=4, lr=1e-4)
    model, free = rule.wrap(Matrices(), 0), rule.wrap(Matrices(), 0)
    start = model.square_a.weight.detach().clone()  # type: ignore[union-attr, operator]
    pairs = [(model, rule.optimizers(model, 0)), (free, QGalore(rank=4, lr=1e-4, int8_weights=False).optimizers(free, 0))]
    for _ in range(150):
        for each, optimizers in pairs:
            fill_gradients(each, 0)  # type: ignore[arg-type]  # still the same class
            optimizers[0].step()
    moved, expected = (each.square_a.weight.detach() - start for each, _ in pairs)  # type: ignore[union-attr, operator]
    assert (moved * expected).sum() / expected.square().sum() == pytest.approx(1.0, abs=0.25)


def test_rounding_to_nearest_moves_by_half_a_step_at_most() -> None:
    W = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    rounded = W.clone()
    to_grid(rounded)
    assert (rounded - W).abs().max() <= (W.max() - W.min()) / 255 / 2 * 1.001
    assert not torch.equal(rounded, W)


def test_memory_is_exact() -> None:
    assert_memory_is_exact(QGalore(rank=5, gap=2))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("gap", 0), ("queue", 0)])
def test_refuses_what_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        QGalore(**{name: value})
