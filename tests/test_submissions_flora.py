"""Flora against the authors' package (step by step where installed, else its recorded weights), and its properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from parity import SHAPES, Matrices, largest_difference
from projection import assert_golden, assert_memory_is_exact, final_weights, golden, gradients, steps
from torch import Tensor
from torch.optim import Optimizer

from submissions import dense, engine, linalg
from submissions.flora import Flora

CASES: dict[str, dict[str, Any]] = {
    "plain": {"scale_parameter": False},
    "scaled": {"scale_parameter": True},
    "full_rank": {"rank": 16, "scale_parameter": False},
    "clipped": {"clip_rms": 0.5},
    "adafactor": {"beta1": 0.0},
}


def submission(case: str) -> Flora:
    return Flora(**{"rank": 5, "kappa": 20, "lr": 1e-2} | CASES[case])


def common_draw(rows: int, columns: int, period: int) -> Tensor:
    """One N for every matrix of one short side: what both sides are given instead of their own draws."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1000 * rows + period), dtype=torch.float64)


def share_draws(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linalg, "gaussian", lambda seed_b, t, rows, r, like: common_draw(rows, r, t).to(like).expand(len(seed_b), rows, r))


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch) -> list[Optimizer]:
    """The package on the matrices with the common draws, our Adam on the rest."""
    import flora_opt.optimizers.torch.flora as package

    def drawn(shape: tuple[int, int], seed: int, dtype: torch.dtype, **_: Any) -> Tensor:
        # N arrives as r x m (left) or m x r (right); equal sides are told apart by the side's own seed
        left, period = divmod(seed, 10**6)
        N = common_draw(shape[1], shape[0], period).T if left else common_draw(*shape, period)
        return N.to(dtype)

    patch.setattr(package, "stable_randn", drawn)
    patch.setattr(package, "split_seed", lambda seed: (10**6 + seed, seed))
    patch.setattr(package, "next_seed", lambda seed: seed + 1)
    ours = submission(case)
    matrices, rest = dense.split(model, ours.matrices)
    theirs = package.Flora(
        [member.parameter for member in matrices],
        lr=ours.lr,
        rank=ours.rank,
        kappa=ours.kappa,
        beta1=ours.beta1 or None,
        clip_threshold=ours.clip_rms,
        scale_parameter=ours.scale_parameter,
    )
    for member in matrices:
        theirs.state[member.parameter]["seed"] = 0
    other = dense.adam(rest, lr=ours.lr, betas=ours.dense_betas, eps=ours.dense_eps, weight_decay=0.0, decay="before")
    return [theirs, other]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_is_the_authors_package(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flora_opt")
    share_draws(monkeypatch)
    differences = largest_difference(submission(case), lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= (1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_ends_at_the_weights_recorded_from_the_package(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share_draws(monkeypatch)
    assert_golden(final_weights(lambda model: submission(case).optimizers(model, 0), 45), golden("flora")[case])


@pytest.mark.parametrize("values", [{}, {"scale_parameter": False}, {"beta1": 0.0}])
def test_memory_is_exact(values: dict[str, Any]) -> None:
    assert_memory_is_exact(Flora(**{"rank": 4, "kappa": 2} | values))


def test_a_new_seed_carries_the_momentum_over() -> None:
    """At kappa M becomes N' N^T M: with N' = N and N N^T near the identity it would be unchanged."""
    given = gradients((8, 12), 3)
    rule = Flora(rank=4, kappa=3, beta1=0.5, scale_parameter=False)
    _, before, _ = steps(rule, given[:2])
    before = {key: value.clone() for key, value in before.items()}
    _, after, _ = steps(rule, given[2:], {key: value.clone() for key, value in before.items()}, start=3)
    old, new = rule.draw(before, 0, given[0]), rule.draw(before, 1, given[0])
    X = rule.adafactor(given[2].clone(), {key: value.clone() for key, value in before.items()}, 3)
    torch.testing.assert_close(after["M"], 0.5 * new @ old.mT @ before["M"] + 0.5 * new @ X)


def test_the_projection_is_the_identity_on_average() -> None:
    state = {"seed_b": torch.arange(4000)}
    N = Flora(rank=4).draw(state, 0, torch.zeros(4000, 6, 8))
    torch.testing.assert_close((N.mT @ N).mean(0), torch.eye(6), atol=0.06, rtol=0)


def test_a_rank_one_square_is_normalised_to_signs() -> None:
    """Where G^2 has rank one its factored mean is exact, so the first step is the sign."""
    G = torch.outer(torch.arange(1.0, 5.0), torch.arange(-3.0, 3.0) + 0.5).double()[None]
    U = steps(Flora(beta1=0.0, scale_parameter=False), [G])[0][0]
    torch.testing.assert_close(U, G.sign())


def test_steps_are_bounded_and_scale_with_the_weights() -> None:
    given = [G * 3.0**t for t, G in enumerate(gradients((8, 12), 6))]
    rule = Flora(rank=4, clip_rms=0.3, scale_parameter=False)
    assert all(U.norm().item() <= 0.3 * math.sqrt(96) * (1 + 1e-9) for U in steps(rule, given)[0])
    model = Matrices()
    optimizer = Flora(rank=4, lr=1e-2).optimizers(model, 0)[0]
    assert isinstance(optimizer, engine.MatrixOptimizer)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name.split("_")[0] in SHAPES:  # X = 1, the momentum is empty: the step is (1 - b1) RMS(W)
            moved = (start[name] - parameter).mean() / (1e-2 * 0.1)
            torch.testing.assert_close(moved, start[name].square().mean().sqrt(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"kappa": 0}, "kappa"),
        ({"beta1": 1.0}, "beta1"),
        ({"decay_rate": 0.1}, "decay_rate"),
        ({"clip_rms": 0}, "clip_rms"),
    ],
)
def test_refuses_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} = .*expected"):
        Flora(**values)
