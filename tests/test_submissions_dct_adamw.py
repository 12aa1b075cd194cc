"""DCT-AdamW by its limits: the released package does not install without CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import Matrices, largest_difference
from projection import assert_memory_is_exact, gradients, steps
from torch.optim import AdamW, Optimizer

from submissions import linalg
from submissions.dct_adamw import DctAdamw


def test_the_basis_is_orthonormal_and_diagonalises_what_cosines_diagonalise() -> None:
    for size in (2, 7, 16):
        Q = linalg.cosines(size)
        torch.testing.assert_close(Q.T @ Q, torch.eye(size, dtype=torch.float64))
        # the second difference with reflecting ends has exactly these eigenvectors
        L = 2 * torch.eye(size, dtype=torch.float64) - torch.diag(torch.ones(size - 1), 1) - torch.diag(torch.ones(size - 1), -1)
        L[0, 0], L[-1, -1] = L[0, 0] - 1, L[-1, -1] - 1
        expected = torch.diag(2 - 2 * torch.cos(torch.pi * torch.arange(size, dtype=torch.float64) / size))
        torch.testing.assert_close(Q.T @ L @ Q, expected)


@pytest.mark.parametrize("gap", [1, 4])
def test_with_all_cosines_it_is_adamw_in_their_basis(gap: int) -> None:
    given = gradients((8, 12), 9)
    found, _, _ = steps(DctAdamw(rank=8, gap=gap), given)
    Q = linalg.cosines(8)
    X = torch.nn.Parameter(torch.zeros(1, 8, 12, dtype=torch.float64))
    adam = AdamW([X], lr=1.0, weight_decay=0.0)
    for U, G in zip(found, given, strict=True):
        before, X.grad = X.detach().clone(), Q.T @ G
        adam.step()
        torch.testing.assert_close(U, Q @ (before - X.detach()), rtol=1e-9, atol=1e-12)


def test_decay_comes_before_the_step_as_in_adamw() -> None:
    def oracle(model: Matrices) -> list[Optimizer]:
        return [AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)]

    ours = DctAdamw(rank=16, lr=1e-2, weight_decay=0.1, matrices=("attn.q",))  # only square ones, in part: the head and norm are AdamW's
    found = largest_difference(ours, oracle, dtype=torch.float64, steps=20)
    assert max(value for name, value in found.items() if not name.startswith("square")) <= 1e-9


def test_chooses_the_rows_of_largest_l1_norm() -> None:
    G = gradients((8, 12), 1)[0]
    _, state, probes = steps(DctAdamw(rank=3), [G])
    S = linalg.cosines(8).T @ G
    assert state["index"].tolist() == [sorted(S.abs().sum(-1)[0].argsort(descending=True)[:3].tolist())]
    kept = S[0, state["index"][0].long()].square().sum() / S.square().sum()
    torch.testing.assert_close(probes[0]["energy"], kept[None, None])


def test_rotation_keeps_the_moments_of_cosines_that_stay_and_clears_new_ones() -> None:
    Q = linalg.cosines(6)
    row = torch.linspace(1, 2, 9, dtype=torch.float64)

    def of(*cosines: int) -> torch.Tensor:
        return sum(torch.outer(Q[:, k], row) for k in cosines)[None]

    rule = DctAdamw(rank=2)
    _, before, _ = steps(rule, [of(1, 4)])
    assert before["index"].tolist() == [[1, 4]]
    old = before["m"].clone()
    rule.refresh(of(4, 5), before, 2)
    assert before["index"].tolist() == [[4, 5]]
    torch.testing.assert_close(before["m"][0, 0], old[0, 1])
    assert not before["m"][0, 1].any()
    # the general rotation Q_new^T Q_old is this permutation
    torch.testing.assert_close(Q[:, [4, 5]].T @ Q[:, [1, 4]] @ old[0], before["m"][0])


@pytest.mark.parametrize(("mode", "kept"), [("keep", True), ("reset", False)])
def test_other_ways_to_treat_the_moments(mode: Any, kept: bool) -> None:
    given = gradients((8, 12), 2)
    rule = DctAdamw(rank=3, on_refresh=mode)
    _, state, _ = steps(rule, given[:1])
    old = state["m"].clone()
    rule.refresh(given[1], state, 2)
    assert torch.equal(state["m"], old) if kept else not state["m"].any()


@pytest.mark.parametrize(("feedback", "tolerance"), [("full", 1e-12), ("8bit", 0.02)])
def test_error_feedback_loses_nothing(feedback: Any, tolerance: float) -> None:
    """What was applied in the subspace plus what is kept is the sum of all gradients."""
    given = gradients((8, 12), 6)
    rule = DctAdamw(rank=3, error_feedback=feedback)
    state, applied = None, torch.zeros_like(given[0])
    for t, G in enumerate(given, 1):
        before = torch.zeros_like(G) if state is None else rule.compensated(torch.zeros_like(G), state)
        _, state, _ = steps(rule, [G], state, t)
        P = linalg.cosines(8)[:, state["index"][0].long()]
        applied += P @ (P.T @ (G + before))
    kept = rule.compensated(torch.zeros_like(given[0]), state)
    total = torch.stack(given).sum(0)
    assert (applied + kept - total).norm() <= tolerance * total.norm()
    torch.testing.assert_close(P.T @ kept, torch.zeros(1, 3, 12, dtype=torch.float64), atol=tolerance * 0.02, rtol=0)


def test_without_feedback_nothing_leaves_the_subspace() -> None:
    found, state, _ = steps(DctAdamw(rank=3, gap=10), gradients((8, 12), 4))
    P = linalg.cosines(8)[:, state["index"][0].long()]
    torch.testing.assert_close(P @ (P.T @ found[-1]), found[-1])


@pytest.mark.parametrize("feedback", ["none", "full", "8bit"])
def test_memory_is_exact(feedback: Any) -> None:
    assert_memory_is_exact(DctAdamw(rank=4, error_feedback=feedback))


@pytest.mark.parametrize("name", ["rank", "gap"])
def test_refuses_what_makes_no_sense(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0: expected an integer of at least 1"):
        DctAdamw(**{name: 0})
