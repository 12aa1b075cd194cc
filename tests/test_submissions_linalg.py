"""The shared operations, by their mathematics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from projection import gradients

from submissions import linalg

PROJECTORS = ["eigh", "svd"]


@pytest.mark.parametrize("method", PROJECTORS)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_leading_left_is_orthonormal_and_largest_first(method: Any, scale: float) -> None:
    G = torch.cat(gradients((9, 14), 3)) * scale
    P = linalg.leading_left(G, 4, method)
    torch.testing.assert_close(P.mT @ P, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    kept = (P.mT @ G).norm(dim=-1)
    torch.testing.assert_close(kept, torch.linalg.svdvals(G)[:, :4], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_both_projectors_capture_the_largest_energy(rank: int, dtype: torch.dtype) -> None:
    G = torch.cat(gradients((9, 14), 5)).to(dtype)
    best = torch.linalg.svdvals(G)[:, :rank].square().sum(-1)
    for method in PROJECTORS:
        P = linalg.leading_left(G, rank, method)  # type: ignore[arg-type]  # a literal
        torch.testing.assert_close((P.mT @ G).square().sum((-2, -1)), best, rtol=1e-5, atol=0)
    spaces = [(P := linalg.leading_left(G, rank, method)) @ P.mT for method in PROJECTORS]  # type: ignore[arg-type]  # a literal
    torch.testing.assert_close(*spaces, atol=1e-3 if dtype == torch.float32 else 1e-9, rtol=0)


def test_tiny_gradients_in_single_precision_keep_their_subspace() -> None:
    G = torch.cat(gradients((9, 14), 1)).float()
    one, other = linalg.leading_left(G, 3), linalg.leading_left(G * 1e-16, 3)
    torch.testing.assert_close(one @ one.mT, other @ other.mT, atol=1e-4, rtol=0)


def test_a_zero_gradient_still_gives_an_orthonormal_basis() -> None:
    P = linalg.leading_left(torch.zeros(2, 5, 7), 3)
    torch.testing.assert_close(P.mT @ P, torch.eye(3).expand(2, 3, 3))


def test_signs_do_not_depend_on_the_solver() -> None:
    G = torch.cat(gradients((9, 14), 4))
    P = linalg.leading_left(G, 5, "svd")
    torch.testing.assert_close(linalg.leading_left(G, 5, "eigh"), P, atol=1e-8, rtol=0)
    flips = torch.tensor([1.0, -1, 1, -1, -1], dtype=torch.float64)
    assert torch.equal(linalg.fix_signs(P * flips), P)
    assert (P.gather(-2, P.abs().argmax(-2, keepdim=True)) > 0).all()
    assert linalg.fix_signs(P.mT).is_contiguous()


def captured(P: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    return (P.mT @ G).square().sum((-2, -1))


@pytest.mark.parametrize("scale", [1.0, 1e-16, 1e12])
def test_subspace_iteration_stays_orthonormal_and_closes_in_on_the_exact_space(scale: float) -> None:
    G = torch.cat(gradients((9, 14), 3)).float() * scale
    P = linalg.leading_left(torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(1)), 4)
    exact, shares = linalg.leading_left(G, 4), []
    for _ in range(12):
        P = linalg.leading_left(G, 4, "subspace", P)
        torch.testing.assert_close(P.mT @ P, torch.eye(4).expand(3, 4, 4), atol=1e-5, rtol=0)
        shares.append((captured(P, G / scale) / captured(exact, G / scale)).min().item())
    assert shares == pytest.approx(sorted(shares), rel=1e-5)
    assert shares[0] < 0.999 < 0.9999 < shares[-1]
    torch.testing.assert_close(P, exact, atol=2e-2, rtol=0)  # the order and the signs too


def test_subspace_without_a_start_is_exact_and_a_zero_gradient_is_harmless() -> None:
    G = torch.cat(gradients((9, 14), 2))
    assert torch.equal(linalg.leading_left(G, 3, "subspace"), linalg.leading_left(G, 3))
    P = linalg.leading_left(torch.zeros(2, 5, 7), 3, "subspace", linalg.leading_left(torch.eye(5).expand(2, 5, 5), 3))
    torch.testing.assert_close(P.mT @ P, torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_in_one_pass_is_adam_in_several(dtype: torch.dtype) -> None:
    """A transposed layout, which the fused kernel cannot take, is served by the formula as it is written."""
    whole, spread = ([torch.zeros(2, 5, 8, dtype=dtype), torch.zeros(2, 5, 8, dtype=dtype)] for _ in range(2))
    for R in gradients((5, 8), 4):
        X = torch.cat([R, 2 * R]).to(dtype)
        one = linalg.adam(X, *whole, (0.9, 0.99999), 1e-6)
        views = [value.mT.contiguous().mT for value in spread]
        other = linalg.adam(X.mT.contiguous().mT, *views, (0.9, 0.99999), 1e-6)
        spread = [view.contiguous() for view in views]
        torch.testing.assert_close([one, *whole], [other, *spread], rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_column_energy_does_not_depend_on_the_layout(shape: tuple[int, int]) -> None:
    X = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for given in (X, X.mT):
        torch.testing.assert_close(linalg.column_energy(given), given.double().square().sum(-2, keepdim=True).float())


def test_adam_and_its_bias_correction_are_torchs() -> None:
    given = torch.cat(gradients((3, 5), 6))
    X = torch.nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    optimizer = torch.optim.Adam([X], lr=1.0, betas=(0.8, 0.95), eps=0.0)
    m, v = torch.zeros_like(X), torch.zeros_like(X)
    for t, G in enumerate(given, 1):
        before, X.grad = X.detach().clone(), G.clone()
        optimizer.step()
        psi = linalg.adam(G, m, v, (0.8, 0.95), 0.0)
        torch.testing.assert_close(before - X.detach(), psi * linalg.bias_correction(t, (0.8, 0.95)))


def test_rank_is_checked_not_clipped() -> None:
    assert linalg.rank_of(torch.zeros(2, 6, 9), 6) == 6
    with pytest.raises(ValueError, match="rank = 7: expected 1 to 6, the short side of a 6x9 matrix"):
        linalg.rank_of(torch.zeros(2, 6, 9), 7)


def test_random_draws_depend_on_seed_and_time_not_on_the_stack() -> None:
    like = torch.zeros(3, 8, 9)
    seeds = torch.tensor([5, 6, 7])
    for draw in (linalg.gaussian, linalg.random_orthonormal, linalg.random_coordinates, linalg.random_indices):
        together = draw(seeds, 4, 8, 3, like)
        alone = torch.cat([draw(seeds[k : k + 1], 4, 8, 3, like[:1]) for k in range(3)])
        torch.testing.assert_close(together, alone)
        assert not torch.equal(together, draw(seeds, 5, 8, 3, like))


def test_random_indices_are_distinct_sorted_and_in_range() -> None:
    index = linalg.random_indices(torch.arange(200), 1, 8, 3, torch.zeros(200, 8, 9))
    assert (index.diff(dim=-1) > 0).all()
    assert set(index.flatten().tolist()) == set(range(8))


def test_norm_growth_remembers_the_norm_it_allowed() -> None:
    S = torch.ones(2, 3, 3) * torch.tensor([1.0, 10.0])[:, None, None]
    before = torch.zeros(2)
    assert linalg.norm_growth(S, before, 1.1, 1).flatten().tolist() == [1.0, 1.0]
    torch.testing.assert_close(before, torch.tensor([3.0, 30.0]))
    factor = linalg.norm_growth(S * torch.tensor([2.0, 0.5])[:, None, None], before, 1.1, 2)
    torch.testing.assert_close(factor.flatten(), torch.tensor([0.55, 1.0]))
    torch.testing.assert_close(before, torch.tensor([3.3, 15.0]))
