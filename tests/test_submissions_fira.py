"""Fira's switches against the formulas they stand for; parity with the authors' package is in test_submissions_parity.py."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from projection import assert_memory_is_exact, gradients, steps
from torch import Tensor

from submissions import linalg
from submissions.base import State
from submissions.fira import Fira
from submissions.galore import Galore

SHAPE = (8, 12)
BETAS = (0.9, 0.999)


def growing(count: int = 8) -> list[Tensor]:
    """Gradients that double at each update, so that every limiter binds."""
    return [G * 2.0**t for t, G in enumerate(gradients(SHAPE, count))]


def parts(rule: Fira, given: list[Tensor]) -> list[dict[str, Tensor]]:
    """R, psi, phi, P and eta of each update with the first subspace, by the formulas alone."""
    P = linalg.leading_left(given[0], rule.rank)
    m, v = (torch.zeros(1, rule.rank, SHAPE[1], dtype=torch.float64) for _ in "mv")
    found = []
    for t, G in enumerate(given, 1):
        R = P.mT @ G
        m, v = 0.9 * m + 0.1 * R, 0.999 * v + 0.001 * R**2
        psi = m / (v.sqrt() + rule.eps)
        eta = torch.tensor((1 - 0.999**t) ** 0.5 / (1 - 0.9**t), dtype=torch.float64)
        axes: Any = -2 if rule.factor == "index" else (-2, -1)
        phi = psi.norm(dim=axes, keepdim=True) / (R.norm(dim=axes, keepdim=True) + 1e-8)
        found.append({"P": P, "R": R, "psi": psi, "phi": phi, "eta": eta})
    return found


def residuals(rule: Fira, given: list[Tensor]) -> list[Tensor]:
    """eta S of each update: what the rule adds to the projected Adam term."""
    found, _, _ = steps(rule, given)
    return [
        U - (p["eta"] * rule.alpha * p["P"] @ p["psi"] if rule.adam_term else 0) for U, p in zip(found, parts(rule, given), strict=True)
    ]


def norms(rule: Fira, given: list[Tensor], corrected: bool = False) -> list[float]:
    """||S|| of each update, after the limiter, in the scale that is limited."""
    found = residuals(rule, given)
    return [S.norm().item() / (1.0 if corrected else linalg.bias_correction(t, BETAS)) for t, S in enumerate(found, 1)]


def test_the_whole_rule_written_out() -> None:
    given = gradients(SHAPE, 5)
    rule = Fira(rank=3, limiter="none")
    for U, G, p in zip(steps(rule, given)[0], given, parts(rule, given), strict=True):
        expected = p["eta"] * (0.25 * p["P"] @ p["psi"] + p["phi"] * (G - 0.25 * p["P"] @ p["R"]))
        torch.testing.assert_close(U, expected)


def test_without_residual_it_is_galore() -> None:
    given = gradients(SHAPE, 9)
    ours, _, _ = steps(Fira(rank=3, gap=4, residual="none"), given)
    galore, _, _ = steps(Galore(rank=3, gap=4), given)
    assert all(torch.equal(one, other) for one, other in zip(ours, galore, strict=True))


@pytest.mark.parametrize(("alpha", "alpha_in_residual", "same"), [(1.0, True, True), (0.25, False, True), (0.25, True, False)])
def test_at_full_rank_it_is_galore_if_and_only_if_the_residual_vanishes(alpha: float, alpha_in_residual: bool, same: bool) -> None:
    given = gradients(SHAPE, 6)
    ours, _, _ = steps(Fira(rank=8, alpha=alpha, alpha_in_residual=alpha_in_residual), given)
    galore, _, _ = steps(Galore(rank=8, alpha=alpha), given)
    gaps = [((one - other).norm() / other.norm()).item() for one, other in zip(ours, galore, strict=True)]
    assert max(gaps) <= 1e-10 if same else min(gaps) > 0.1


def test_raw_residual_is_galore_plus_the_rest_of_the_gradient() -> None:
    given = gradients(SHAPE, 4)
    rule = Fira(rank=3, residual="raw", limiter="none", alpha_in_residual=False)
    for S, G, p in zip(residuals(rule, given), given, parts(rule, given), strict=True):
        torch.testing.assert_close(S, p["eta"] * (G - p["P"] @ p["R"]))
        torch.testing.assert_close(p["P"].mT @ S, torch.zeros_like(p["R"]), atol=1e-12, rtol=0)


def test_the_papers_residual_stays_outside_of_the_subspace() -> None:
    given = gradients(SHAPE, 4)
    for alpha_in_residual in (True, False):
        rule = Fira(rank=3, limiter="none", alpha_in_residual=alpha_in_residual)
        for S, p in zip(residuals(rule, given), parts(rule, given), strict=True):
            inside = p["eta"] * p["phi"] * p["R"] * (0.75 if alpha_in_residual else 0.0)
            torch.testing.assert_close(p["P"].mT @ S, inside, atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize("factor", ["index", "matrix"])
def test_only_scaling_moves_each_column_along_its_gradient(factor: Any) -> None:
    given = gradients(SHAPE, 4)
    rule = Fira(rank=3, adam_term=False, factor=factor)
    for U, G in zip(steps(rule, given)[0], given, strict=True):
        torch.testing.assert_close(torch.cosine_similarity(U, G, dim=-2), torch.ones(1, 12, dtype=torch.float64))


@pytest.mark.parametrize(("factor", "count"), [("index", 12), ("matrix", 1)])
def test_one_factor_per_long_axis_index_or_per_matrix(factor: Any, count: int) -> None:
    given = gradients(SHAPE, 3)
    rule = Fira(rank=3, adam_term=False, factor=factor, limiter="none")
    found, _, probes = steps(rule, given)
    for U, G, probe, p in zip(found, given, probes, parts(rule, given), strict=True):
        assert probe["phi"].shape == (1, count)
        torch.testing.assert_close(probe["phi"], p["phi"].flatten(1))
        torch.testing.assert_close(U, p["eta"] * p["phi"] * G)


@pytest.mark.parametrize("gamma", [1.0, 1.01, 1.5])
def test_norm_growth_lets_s_grow_by_gamma_and_no_more(gamma: float) -> None:
    found = norms(Fira(rank=3, gamma=gamma, residual="raw"), growing())
    for before, after in itertools.pairwise(found):
        assert after == pytest.approx(gamma * before, rel=1e-5)


def test_norm_growth_lets_s_shrink_freely() -> None:
    given = [G / 3.0**t for t, G in enumerate(gradients(SHAPE, 8))]
    free = norms(Fira(rank=3, residual="raw", limiter="none"), given)
    assert norms(Fira(rank=3, residual="raw"), given) == pytest.approx(free)
    assert all(after < before for before, after in itertools.pairwise(free))


def test_the_limiter_probe_is_the_factor_it_applied() -> None:
    given = growing()
    free, limited = norms(Fira(rank=3, limiter="none"), given), norms(Fira(rank=3), given)
    _, _, probes = steps(Fira(rank=3), given)
    assert [probe["limiter"].item() for probe in probes] == pytest.approx([b / a for a, b in zip(free, limited, strict=True)])


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_shrink_averages_with_the_last_norm(strength: float) -> None:
    free = norms(Fira(rank=3, limiter="none"), growing())
    found = norms(Fira(rank=3, limiter="shrink", strength=strength), growing())
    assert found[0] == pytest.approx(free[0])
    for t in range(1, len(free)):
        assert found[t] == pytest.approx(strength * free[t] + (1 - strength) * found[t - 1], rel=1e-6)


def test_tensor_is_a_constant_factor() -> None:
    free = norms(Fira(rank=3, limiter="none"), growing())
    assert norms(Fira(rank=3, limiter="tensor", strength=0.3), growing()) == pytest.approx([0.3 * norm for norm in free])


def test_clip_is_a_ceiling() -> None:
    free = norms(Fira(rank=3, limiter="none"), growing())
    ceiling = sorted(free)[len(free) // 2] * 1.001
    found = norms(Fira(rank=3, limiter="clip", strength=ceiling), growing())
    assert found == pytest.approx([min(norm, ceiling) for norm in free], rel=1e-6)
    assert min(found) < ceiling < max(free)


def test_after_bias_the_limiter_acts_on_the_corrected_norm() -> None:
    """Bias correction first falls: the raw S of a constant gradient grows and is limited, the corrected one is not."""
    constant = gradients(SHAPE, 1) * 12
    raw, corrected = Fira(rank=3), Fira(rank=3, limiter_after_bias=True)
    _, _, probes = steps(raw, constant)
    assert max(probe["limiter"].item() for probe in probes[1:]) < 1
    _, _, probes = steps(corrected, constant)
    assert min(probe["limiter"].item() for probe in probes) > 1 - 1e-6
    growth = Fira(rank=3, limiter_after_bias=True, residual="raw")
    for before, after in itertools.pairwise(norms(growth, growing(), corrected=True)):
        assert after == pytest.approx(1.01 * before, rel=1e-5)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_residual_gain_multiplies_the_residual_alone(gain: float) -> None:
    given = gradients(SHAPE, 5)
    one, other = (residuals(Fira(rank=3, limiter="none", residual_gain=value), given) for value in (1.0, gain))
    for plain, gained in zip(one, other, strict=True):
        torch.testing.assert_close(gained, gain * plain)


def advanced(rule: Fira, given: list[Tensor], P: Tensor, turn: Tensor) -> tuple[Tensor, State]:
    """A state after updates in basis P, and the next direction after the basis became P turn."""
    state = rule.init(torch.zeros_like(given[0]))
    state["P"].copy_(P)
    for t, G in enumerate(given, 2):  # from 2: the limiter's first update is not of interest
        rule.update(G.clone(), state, t)
    if rule.on_refresh == "rotate":
        linalg.rotate(state["m"], state["v"], state["P"], P @ turn)
    state["P"].copy_(P @ turn)
    return state["P"] @ state["m"], state


def test_rotation_leaves_the_back_projection_of_m_unchanged_at_full_rank() -> None:
    given = gradients((6, 9), 4)
    P, turn = (torch.linalg.qr(torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(k), dtype=torch.float64))[0] for k in (1, 2))
    back, _ = advanced(Fira(rank=6, on_refresh="rotate"), given, P, torch.eye(6, dtype=torch.float64)[None])
    turned, state = advanced(Fira(rank=6, on_refresh="rotate"), given, P, turn)
    torch.testing.assert_close(turned, back)
    assert state["v"].min() >= 0
    kept, _ = advanced(Fira(rank=6, on_refresh="keep"), given, P, turn)
    assert (kept - back).norm() > 0.5 * back.norm()


def test_rotation_by_signs_and_order_changes_nothing_at_all() -> None:
    """The freedom an eigensolver has: signs and, among equals, order. Rotated moments do not notice, kept ones do."""
    given = gradients(SHAPE, 3)
    P = linalg.leading_left(given[0], 3)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]], dtype=torch.float64)[None]
    for mode, invariant in (("rotate", True), ("keep", False)):
        rule = Fira(rank=3, on_refresh=mode)  # type: ignore[arg-type]  # a literal
        directions = []
        for change in (torch.eye(3, dtype=torch.float64)[None], turn):
            _, state = advanced(rule, given, P, change)
            directions.append(rule.update(given[-1].clone(), state, 5)[0])
        same = torch.allclose(directions[0], directions[1], rtol=1e-9)
        assert same == invariant


def test_reset_empties_the_moments_at_each_refresh() -> None:
    given = gradients(SHAPE, 6)
    rule = Fira(rank=3, gap=3, on_refresh="reset", limiter="none")
    found, _, _ = steps(rule, given)
    again, _, _ = steps(rule, given[3:], rule.init(torch.zeros_like(given[0])), start=4)
    assert all(torch.equal(one, other) for one, other in zip(found[3:], again, strict=True))


def basis(kind: Any, copies: int = 4, m: int = 6, rank: int = 3, t: int = 1) -> Tensor:
    rule = Fira(rank=rank, basis=kind)
    return rule.new_basis(torch.zeros(copies, m, 9, dtype=torch.float64), {"seed_b": torch.arange(copies)}, t)


def test_coordinates_are_distinct_unit_vectors() -> None:
    P = basis("coordinates", copies=50)
    assert set(P.unique().tolist()) == {0.0, 1.0}
    assert (P.sum(-2) == 1).all()
    assert P.sum(-1).max() == 1
    torch.testing.assert_close((P @ P.mT).mean(0).diagonal(), torch.full((6,), 0.5, dtype=torch.float64), atol=0.2, rtol=0)


def test_orthogonal_bases_are_orthonormal_and_uniform() -> None:
    P = basis("orthogonal", copies=4000)
    torch.testing.assert_close(P.mT @ P, torch.eye(3, dtype=torch.float64).expand(4000, 3, 3))
    torch.testing.assert_close((P @ P.mT).mean(0), 0.5 * torch.eye(6, dtype=torch.float64), atol=0.03, rtol=0)


def test_gaussian_bases_keep_the_energy_on_average() -> None:
    """Entries N(0, 1/r): E[P P^T] = I."""
    P = basis("gaussian", copies=4000)
    torch.testing.assert_close((P @ P.mT).mean(0), torch.eye(6, dtype=torch.float64), atol=0.06, rtol=0)


@pytest.mark.parametrize("kind", ["coordinates", "orthogonal", "gaussian"])
def test_random_bases_change_with_time_and_matrix_and_nothing_else(kind: Any) -> None:
    P = basis(kind, copies=8, m=30)
    assert torch.equal(P, basis(kind, copies=8, m=30))
    assert not torch.equal(P, basis(kind, copies=8, m=30, t=2))
    assert not torch.equal(P[0], P[1])


@pytest.mark.parametrize("values", [{}, {"basis": "gaussian"}, {"basis": "coordinates"}, {"residual": "none"}])
def test_memory_is_exact(values: dict[str, Any]) -> None:
    assert_memory_is_exact(Fira(rank=4, gap=2, **values))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("gap", 0), ("gamma", 0.9), ("strength", 0.0)])
def test_refuses_what_makes_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: expected"):
        dataclasses.replace(Fira(), **{name: value})
