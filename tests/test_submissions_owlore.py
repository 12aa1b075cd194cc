"""owlore: layers are drawn by their outliers, and the drawn ones train as GaLore does."""

from __future__ import annotations

import pytest
import torch
from loop import HIDDEN, LAYERS, MLP, VOCAB, Loop, assert_learns, assert_resumes, small_llama

from submissions.engine import MatrixOptimizer, Named
from submissions.galore import Galore
from submissions.owlore import Owlore, outliers

OUTSIDE = 2 * VOCAB * HIDDEN + HIDDEN


def drawn(rule: Owlore, model: torch.nn.Module, period: int) -> set[int]:
    return {int(member.name.split(".")[1]) for member in rule.selected(model, 0, period)}


def test_the_score_is_the_share_of_outliers() -> None:
    model = small_llama()
    assert outliers(model, "layers.1.", 13.0) == 0
    with torch.no_grad():
        model.layers[1].attn.q.weight[0, :5] = 50.0
    total = 4 * HIDDEN**2 + 3 * HIDDEN * MLP
    assert outliers(model, "layers.1.", 13.0).item() == pytest.approx(5 / total)
    assert outliers(model, "layers.2.", 13.0) == 0


def test_layers_are_drawn_by_their_scores() -> None:
    rule = Owlore(rank=4, gamma=1, scores=(0.0, 3.0, 0.0, 1.0))
    model = rule.wrap(small_llama(), seed=0)
    draws = [drawn(rule, model, period) for period in range(400)]
    assert sum(draw == {1} for draw in draws) == pytest.approx(300, abs=35)
    assert sum(draw == {3} for draw in draws) == pytest.approx(100, abs=35)


def test_without_outliers_the_draw_is_uniform() -> None:
    rule = Owlore(rank=4, gamma=2)
    model = rule.wrap(small_llama(), seed=0)
    draws = [drawn(rule, model, period) for period in range(200)]
    assert all(len(draw) == 2 for draw in draws)
    assert all(sum(layer in draw for draw in draws) == pytest.approx(100, abs=25) for layer in range(LAYERS))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_drawn_layer_trains_as_galore(decay: float) -> None:
    ours, theirs = small_llama(), small_llama()
    rule = Owlore(rank=4, refresh=3, alpha=0.5, lr=1e-2, weight_decay=decay)
    pick = ("q", "up", "down")
    members = [
        [Named(name, p) for name, p in model.named_parameters() if name.startswith("layers.0.") and name.split(".")[-2] in pick]
        for model in (ours, theirs)
    ]
    norm = Named("norm", ours.norm.weight)
    own = rule.own([*members[0], norm], seed=0)
    reference = MatrixOptimizer(Galore(rank=4, gap=3, alpha=0.5, eps=1e-8, weight_decay=decay), members[1], lr=1e-2, seed=0)
    for step in range(8):
        for pair in zip(*members, strict=True):
            gradient = torch.randn(pair[0].parameter.shape, generator=torch.Generator().manual_seed(step))
            for member in pair:
                member.parameter.grad = gradient.clone()
        norm.parameter.grad = torch.ones_like(norm.parameter)
        for optimizer in (*own, reference):
            optimizer.step()
    for mine, reference_member in zip(*members, strict=True):  # the two add the same terms in another order
        torch.testing.assert_close(mine.parameter, reference_member.parameter, rtol=0, atol=1e-6)


def test_frozen_layers_do_not_move_by_a_bit() -> None:
    loop = Loop(Owlore(rank=4, gamma=1, gap=1, lr=1e-2))
    for _ in range(6):
        before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
        loop.run(1)
        (active,) = drawn(loop.submission, loop.model, loop.training.t - 1)  # type: ignore[arg-type]
        moved = {name for name, p in loop.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for name in before if not name.startswith("layers.") or name.startswith(f"layers.{active}.")}


def test_state_is_that_of_the_drawn_layers() -> None:
    loop = Loop(Owlore(rank=4, gamma=2, gap=2))
    square, oblong = 3 * 4 * HIDDEN, 4 * (2 * MLP + HIDDEN)
    for _ in range(3):
        loop.run(3)
        norms = 2 * (2 * HIDDEN + 1)
        assert loop.state_elements() == 2 * OUTSIDE + 3 + 2 * (4 * square + 3 * oblong + norms)


@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_kill_leaves_no_trace(before: int) -> None:
    assert_resumes(Owlore(rank=4, gamma=1, gap=3, refresh=2, lr=1e-2), before=before, after=5)


def test_it_learns() -> None:
    assert_learns(Owlore(rank=8, gamma=2, gap=5, lr=1e-2))


@pytest.mark.parametrize(
    ("fields", "message"), [({"gamma": 5}, "gamma = 5: expected at most 4"), ({"gamma": 2, "scores": (1.0,)}, "4 numbers, one per layer")]
)
def test_what_does_not_fit_the_model_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Owlore(rank=4, **fields).wrap(small_llama(), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"), [({"refresh": 0}, "refresh = 0"), ({"alpha": 0.0}, "alpha"), ({"scores": (-1.0,)}, "scores")]
)
def test_a_value_out_of_range_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Owlore(**fields)  # type: ignore[arg-type]
