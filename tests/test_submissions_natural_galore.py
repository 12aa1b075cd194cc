"""Natural GaLore against the matrix it inverts, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projection import assert_memory_is_exact, gradients, steps
from torch import Tensor

from submissions import linalg
from submissions.natural_galore import NaturalGalore


def preconditioned(rule: NaturalGalore, given: list[Tensor]) -> list[Tensor]:
    """What Adam saw: with b1 = 0 and b2 = 0 its first moment is its input."""
    seen = []
    state = None
    for t, G in enumerate(given, 1):
        _, state, _ = steps(rule, [G], state, t)
        seen.append(state["m"].clone())
    return seen


@pytest.mark.parametrize("sides", ["one", "two"])
def test_solves_the_damped_fisher_system(sides: Any) -> None:
    given = [50 * G for G in gradients((6, 9), 7)]
    rule = NaturalGalore(rank=3, history=4, damping=0.05, sides=sides, gap=None, betas=(0.0, 0.0))
    seen = preconditioned(rule, given)
    P = linalg.leading_left(given[0], 3)
    Q = torch.linalg.qr(given[0].mT @ P)[0] if sides == "two" else torch.eye(9, dtype=torch.float64)
    flat = [(P.mT @ G @ Q).flatten() for G in given]
    for t, g in enumerate(seen):
        recent = torch.stack(flat[max(0, t - 3) : t + 1], dim=1)
        expected = torch.linalg.solve(0.05 * torch.eye(len(recent), dtype=torch.float64) + recent @ recent.T, flat[t])
        torch.testing.assert_close(g.flatten(), expected, rtol=1e-7, atol=1e-9)


def test_large_damping_is_galore() -> None:
    """(lambda I + F)^-1 tends to I / lambda, and Adam does not see the scale."""
    given = gradients((6, 9), 6)
    found, _, _ = steps(NaturalGalore(rank=3, damping=1e9, eps=1e-30, gap=3), given)
    state: dict[str, Tensor] = {"m": torch.zeros(1, 3, 9, dtype=torch.float64), "v": torch.zeros(1, 3, 9, dtype=torch.float64)}
    for t, (U, G) in enumerate(zip(found, given, strict=True), 1):
        if (t - 1) % 3 == 0:
            P = linalg.leading_left(G, 3)
        psi = linalg.adam(P.mT @ G, state["m"], state["v"], (0.9, 0.999), 1e-30)
        torch.testing.assert_close(U, 0.25 * P @ psi * linalg.bias_correction(t, (0.9, 0.999)), rtol=1e-6, atol=1e-9)


def test_two_sides_project_to_the_leading_block() -> None:
    """At the refresh itself P^T G Q holds the r leading singular values."""
    G = gradients((6, 9), 1)[0]
    _, state, _ = steps(NaturalGalore(rank=3, sides="two"), [G])
    torch.testing.assert_close(torch.linalg.svdvals(state["P"].mT @ G @ state["Q"]), torch.linalg.svdvals(G)[:, :3])


@pytest.mark.parametrize("mode", ["keep", "reset"])
def test_refresh_keeps_or_forgets(mode: Any) -> None:
    given = gradients((6, 9), 3)
    rule = NaturalGalore(rank=3, on_refresh=mode)
    _, state, _ = steps(rule, given[:2])
    rule.refresh(given[2], state, 3)
    assert all(state[key].any() == (mode == "keep") for key in ("m", "v", "H"))


@pytest.mark.parametrize("sides", ["one", "two"])
def test_memory_is_exact(sides: Any) -> None:
    assert_memory_is_exact(NaturalGalore(rank=4, gap=2, history=3, sides=sides))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("gap", 0), ("history", 0), ("damping", 0.0)])
def test_refuses_what_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        NaturalGalore(**{name: value})
