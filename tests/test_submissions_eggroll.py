"""EGGROLL: its estimate by the definition, that it points downhill, and that a step leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from loop import Loop, assert_resumes, loss_of, small_llama
from torch import Tensor, nn

from submissions.base import Training
from submissions.eggroll import Eggroll


def training_of(submission: Eggroll, seed: int = 0) -> Training:
    model = small_llama(dtype=torch.float64)
    training = Training(model, seed=seed, steps=10, t=1, optimizers=submission.optimizers(model, seed))
    training.loss = lambda step: loss_of(model, step).detach()
    return training


@pytest.mark.parametrize("rank", [1, 3])
def test_the_gradient_is_the_weighted_sum_of_the_members_moves(rank: int) -> None:
    """Recorded from outside: each member's weights and loss give fitness and move."""
    submission = Eggroll(members=6, rank=rank, sigma=0.1)
    training = training_of(submission)
    names = ("layers.0.attn.q.weight", "layers.1.mlp.up.weight", "norm.weight")
    centre = {name: training.model.get_parameter(name).detach().clone() for name in names}
    seen: list[tuple[float, dict[str, Tensor]]] = []

    def watched(step: int) -> Tensor:
        loss = loss_of(training.model, step).detach()
        seen.append((float(loss), {name: training.model.get_parameter(name).detach() - centre[name] for name in names}))
        return loss

    training.loss = watched
    mean = submission.train_step(training, 1)
    losses = torch.tensor([loss for loss, _ in seen], dtype=torch.float64)
    assert float(mean) == pytest.approx(float(losses.mean()), rel=1e-5)
    fitness = -(losses - losses.mean()) / losses.std(correction=0)
    for name in names:
        moves = [move[name] for _, move in seen]
        for up, down in zip(moves[::2], moves[1::2], strict=True):
            torch.testing.assert_close(up, -down)
        if moves[0].ndim == 2:
            assert all(torch.linalg.matrix_rank(move) == rank for move in moves)
        expected = -math.sqrt(6) / 6 * sum(float(f) * move for f, move in zip(fitness, moves, strict=True))
        torch.testing.assert_close(training.model.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-8)


def test_perturbed_entries_have_the_standard_deviation_sigma() -> None:
    submission = Eggroll(members=2000, rank=2, sigma=0.05)
    W = torch.zeros(6, 9)
    A, B = submission.factors(W, "w", 0, 1)
    moves = A @ B.mT * submission.scale(W)
    assert moves.shape == (1000, 6, 9)
    assert float(moves.std()) == pytest.approx(0.05, rel=0.03)
    v = torch.zeros(7)
    A, B = submission.factors(v, "v", 0, 1)
    assert float((A @ B.mT * submission.scale(v)).std()) == pytest.approx(0.05, rel=0.03)


def test_the_estimate_points_along_the_true_gradient() -> None:
    submission = Eggroll(members=512, sigma=1e-3)
    training = training_of(submission)
    submission.train_step(training, 1)
    estimate = torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
    training.model.zero_grad()
    loss_of(training.model, 1).backward()
    exact = torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
    cosine = float(estimate @ exact / (estimate.norm() * exact.norm()))
    # Of p random directions in a space of d dimensions the gradient's share is about sqrt(p / (p + d)).
    assert cosine == pytest.approx(math.sqrt(256 / (256 + len(exact))), abs=0.06)


def test_a_step_leaves_the_weights_as_they_were() -> None:
    submission = Eggroll(members=8, sigma=0.3)
    training = training_of(submission)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    submission.train_step(training, 1)
    assert all(torch.equal(p, kept) for p, kept in zip(training.model.parameters(), before, strict=True))


def test_equal_members_move_nothing() -> None:
    submission = Eggroll(members=4)
    training = training_of(submission)
    training.loss = lambda step: torch.tensor(2.0)
    submission.train_step(training, 1)
    assert not any(parameter.grad is None or parameter.grad.any() for parameter in training.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumes(optimizer: str) -> None:
    assert_resumes(Eggroll(members=4, optimizer=optimizer), before=3, after=3)  # type: ignore[arg-type]


def test_finds_a_matrix_by_its_loss_alone() -> None:
    model = nn.Linear(6, 5, bias=False)
    goal = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    submission = Eggroll(members=16, sigma=0.05, lr=0.2)
    training = Training(model, seed=0, steps=200, optimizers=submission.optimizers(model, 0))
    training.loss = lambda batch: (model.weight.detach() - goal).square().mean()
    first = float(training.loss(None))
    for training.t in range(1, 201):
        submission.train_step(training, None)
        training.optimizers[0].step()
    assert float(training.loss(None)) < 0.05 * first


def test_uses_no_backward_pass() -> None:
    loop = Loop(Eggroll(members=2))
    loop.training.backward = None  # type: ignore[assignment]
    loop.run(1)


def test_refuses_an_odd_number_of_members() -> None:
    with pytest.raises(ValueError, match="members = 3: expected an even integer of at least 2"):
        Eggroll(members=3)
