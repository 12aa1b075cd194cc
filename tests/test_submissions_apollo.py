"""APOLLO against the authors' package (step by step where installed, else its recorded weights), and its properties."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from parity import Matrices, groups, largest_difference
from projection import assert_golden, assert_memory_is_exact, final_weights, golden, gradients, steps
from torch import Tensor
from torch.optim import Optimizer

from submissions import linalg
from submissions.apollo import Apollo
from submissions.apollo_mini import ApolloMini

GAP = 20
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channel": ({"rank": 5}, {"scale_type": "channel", "scale": 1}),
    "channel_front": ({"rank": 5, "scale": 4.0, "scale_front": True}, {"scale_type": "channel", "scale": 4}),
    "tensor": ({"rank": 3, "scale": 9.0, "factor": "tensor"}, {"scale_type": "tensor", "scale": 9}),
    "no_limiter": ({"rank": 16, "limiter": "none"}, {"scale_type": "channel", "scale": 1}),
}
"""Our hyperparameters and the package's."""


def common_draw(rows: int, columns: int, t: int) -> Tensor:
    """The same N for every matrix of one short side: what both sides are given instead of their own draws."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1000 * rows + t), dtype=torch.float64)


def share_draws(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linalg, "gaussian", lambda seed_b, t, rows, r, like: common_draw(rows, r, t).to(like).expand(len(seed_b), rows, r))


def package(
    model: Matrices, patch: pytest.MonkeyPatch, weight_decay: float, *, disable_nl: bool, scale_front: bool, **options: Any
) -> list[Optimizer]:
    """The package's optimizer with the common draws."""
    from apollo_torch import APOLLOAdamW
    from apollo_torch.random_projector import GradientProjector

    def drawn(self: Any, weights: Tensor, rank: int, type: str, seed: int) -> Tensor:
        self.count = getattr(self, "count", -1) + 1
        N = common_draw(min(weights.shape), rank, 1 + self.count * GAP).to(weights.dtype) / rank**0.5
        return N.T if type == "right" else N

    patch.setattr(GradientProjector, "get_orthogonal_matrix", drawn)
    options = {"proj": "random", "proj_type": "std", "update_proj_gap": GAP, **options}
    return [APOLLOAdamW(groups(model, **options), lr=1e-2, weight_decay=weight_decay, disable_nl=disable_nl, scale_front=scale_front)]


def oracle(case: str, model: Matrices, patch: pytest.MonkeyPatch, weight_decay: float = 0.1) -> list[Optimizer]:
    if case == "mini":
        options: dict[str, Any] = {"rank": 1, "scale_type": "tensor", "scale": 128}
        return package(model, patch, weight_decay, disable_nl=False, scale_front=True, **options)
    ours, theirs = CASES[case]
    front, free = ours.get("scale_front", False), ours.get("limiter") == "none"
    return package(model, patch, weight_decay, disable_nl=free, scale_front=front, rank=ours["rank"], **theirs)


def submission(case: str, weight_decay: float = 0.1) -> Apollo | ApolloMini:
    if case == "mini":
        return ApolloMini(gap=GAP, weight_decay=weight_decay)
    return Apollo(gap=GAP, weight_decay=weight_decay, **CASES[case][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [*CASES, "mini"])
def test_is_the_authors_package(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apollo_torch")
    share_draws(monkeypatch)
    differences = largest_difference(submission(case), lambda model: oracle(case, model, monkeypatch), dtype=dtype)
    assert max(differences.values()) <= (1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("case", [*CASES, "mini"])
def test_ends_at_the_weights_recorded_from_the_package(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share_draws(monkeypatch)
    assert_golden(final_weights(lambda model: submission(case).optimizers(model, 0), 45), golden("apollo")[case])


@pytest.mark.parametrize("values", [{}, {"store": False}, {"basis": "svd"}, {"limiter": "none"}])
def test_memory_is_exact(values: dict[str, Any]) -> None:
    assert_memory_is_exact(Apollo(rank=4, gap=2, **values))


def test_a_seed_serves_as_well_as_a_stored_projection() -> None:
    given = gradients((8, 12), 9)
    stored, _, _ = steps(Apollo(rank=3, gap=4), given)
    drawn, _, _ = steps(Apollo(rank=3, gap=4, store=False), given)
    assert all(torch.equal(one, other) for one, other in zip(stored, drawn, strict=True))


def test_the_projection_changes_every_gap_updates_and_never_without_gap() -> None:
    given = gradients((8, 12), 1) * 6
    for gap, expected in ((2, 3), (None, 1)):
        rule, seen = Apollo(rank=3, gap=gap), []
        state = None
        for t, G in enumerate(given, 1):
            _, state, _ = steps(rule, [G], state, t)
            seen.append(state["N"].clone())
        assert len({tuple(N.flatten().tolist()) for N in seen}) == expected


def test_each_column_moves_along_its_gradient() -> None:
    given = gradients((8, 12), 3)
    for rule in (Apollo(rank=3), Apollo(rank=3, factor="tensor")):
        for U, G in zip(steps(rule, given)[0], given, strict=True):
            torch.testing.assert_close(torch.cosine_similarity(U, G, dim=-2), torch.ones(1, 12, dtype=torch.float64))


def test_one_factor_for_the_matrix_is_parallel_to_the_gradient() -> None:
    given = gradients((8, 12), 3)
    U = steps(ApolloMini(), given)[0][-1]
    torch.testing.assert_close(torch.cosine_similarity(U.flatten(), given[-1].flatten(), dim=0), torch.ones((), dtype=torch.float64))


def test_apollo_at_rank_one_with_one_factor_is_mini() -> None:
    given = gradients((8, 12), 9)
    mini = ApolloMini(gap=4, scale=16.0)
    same = Apollo(rank=1, gap=4, scale=16.0, scale_front=True, factor="tensor")
    for one, other in zip(steps(mini, given)[0], steps(same, given)[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_scale_enters_as_its_square_root_before_or_after_the_limiter() -> None:
    given = gradients((8, 12), 6)
    plain, _, _ = steps(Apollo(rank=3), given)
    for front in (False, True):
        scaled, _, _ = steps(Apollo(rank=3, scale=9.0, scale_front=front), given)
        for one, other in zip(scaled, plain, strict=True):  # the limiter is scale-free, so its place does not show at constant scale
            torch.testing.assert_close(one, 3 * other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", [Apollo(rank=3, gamma=1.05), ApolloMini(gamma=1.05, scale=1.0)])
def test_the_limiter_bounds_growth(rule: Apollo | ApolloMini) -> None:
    given = [G * 2.0**t for t, G in enumerate(gradients((8, 12), 8))]
    found, _, _ = steps(rule, given)
    norms = [U.norm().item() / linalg.bias_correction(t, rule.betas) for t, U in enumerate(found, 1)]
    assert all(after <= before * 1.05 * (1 + 1e-4) for before, after in itertools.pairwise(norms))
    assert any(after > before * 1.04 for before, after in itertools.pairwise(norms))


def test_without_limiter_mini_is_free() -> None:
    given = [G * 2.0**t for t, G in enumerate(gradients((8, 12), 8))]
    norms = [U.norm().item() for U in steps(ApolloMini(gamma=None), given)[0]]
    assert max(after / before for before, after in itertools.pairwise(norms)) > 1.5


def test_gaussian_projection_shrinks_the_factor_as_the_root_of_the_rank_share() -> None:
    """phi(R) is about sqrt(r / m) phi(G): the statistic that needs no common random numbers."""
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(64, 48, 96, generator=generator, dtype=torch.float64)

    def inverse_square(rank: int) -> float:
        """Mean of 1 / phi^2: at the first update |psi| is one constant, so this is the mean of ||R_j||^2 / r."""
        return steps(Apollo(rank=rank), [G])[2][0]["phi"].pow(-2).mean().item()

    assert inverse_square(12) / inverse_square(48) == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize(
    ("values", "message"), [({"rank": 0}, "rank"), ({"scale": 0.0}, "scale"), ({"gap": 0}, "gap"), ({"gamma": 0.9}, "gamma")]
)
def test_refuses_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} = .*expected"):
        Apollo(**values)
    if message != "rank":
        with pytest.raises(ValueError, match=f"{message} = .*expected"):
            ApolloMini(**values)
