"""lora: parity with peft, and what its definition implies."""

from __future__ import annotations

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama
from torch import nn

from submissions import adapters
from submissions.base import MATRIX_ROLES
from submissions.fira import Fira
from submissions.lora import Lora


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_training_is_that_of_peft(scaling: str) -> None:
    peft = pytest.importorskip("peft")
    ours = Loop(Lora(rank=4, alpha=8, scaling=scaling, rest="freeze", lr=1e-2, schedule="constant", warmup=0), dtype=torch.float64)  # type: ignore[arg-type]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q", "k", "v", "o", "gate", "up", "down"], use_rslora=scaling == "rslora")
    theirs = peft.inject_adapter_in_model(config, small_llama(0, torch.float64))
    for name, module in adapters.factored(ours.model):
        layer = theirs.get_submodule(name)
        with torch.no_grad():
            layer.lora_A["default"].weight = nn.Parameter(module.lora_a.detach().clone())
            layer.lora_B["default"].weight = nn.Parameter(module.lora_b.detach().clone())
    optimizer = torch.optim.AdamW([p for n, p in theirs.named_parameters() if "lora_" in n], lr=1e-2, weight_decay=0.0)
    start = {name: module.effective().clone() for name, module in adapters.factored(ours.model)}
    for step in range(1, 61):
        optimizer.zero_grad()
        loss = loss_of(theirs, step)
        loss.backward()
        assert ours.run(1)[0] == pytest.approx(loss.item(), rel=1e-9)
        optimizer.step()
    for name, module in adapters.factored(ours.model):
        layer = theirs.get_submodule(name)
        expected = layer.base_layer.weight + layer.get_delta_weight("default")
        moved = (expected - start[name]).abs().max()
        assert moved > 1e-3
        assert (module.effective() - expected).abs().max() <= 1e-9 * moved


def test_wrapping_changes_no_output_and_freezes_the_matrices() -> None:
    wrapped = Lora(rank=4).wrap(small_llama(), seed=0)
    assert loss_of(wrapped, 1).item() == loss_of(small_llama(), 1).item()
    assert {name.rsplit(".", 1)[1] for name, p in wrapped.named_parameters() if not p.requires_grad} == {"weight"}
    assert sum(not p.requires_grad for p in wrapped.parameters()) == 7 * len(wrapped.layers)


def test_frozen_matrices_stay_as_they_are_bit_for_bit() -> None:
    loop = Loop(Lora(rank=4, rest="freeze"))
    before = {name: p.clone() for name, p in loop.model.named_parameters() if not p.requires_grad}
    loop.run(3)
    assert len(before) == 7 * 4 + 2 + 9
    assert all(torch.equal(p, before[name]) for name, p in loop.model.named_parameters() if name in before)


@pytest.mark.parametrize("role", SHAPES)
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Lora(rank=5, matrices=(role,), rest="freeze")
    loop = Loop(submission)
    loop.run(1)
    matrices = sum(1 for _ in adapters.factored(loop.model))
    assert loop.state_elements() == matrices * factor_elements(submission, 5, role)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_kill_leaves_no_trace(dropout: float) -> None:
    assert_resumes(Lora(rank=4, lr=1e-2, dropout=dropout), before=4, after=5)


def test_dropout_acts_in_training_only() -> None:
    model = Lora(rank=4, dropout=0.5).wrap(small_llama(), seed=0)
    for _, module in adapters.factored(model):
        nn.init.normal_(module.lora_b)
    torch.manual_seed(0)
    assert loss_of(model, 1).item() != loss_of(model, 1).item()
    model.eval()
    assert loss_of(model, 1).item() == loss_of(model, 1).item()


def test_it_learns() -> None:
    assert_learns(Lora(rank=8, lr=2e-2))


def test_another_optimizer_takes_the_factors_by_their_matrix_role() -> None:
    model = Lora(rank=8, rest="freeze").wrap(small_llama(), seed=0)
    (fira,) = Fira(rank=4).optimizers(model, seed=0)
    assert len([p for group in fira.param_groups for p in group["params"]]) == 2 * 7 * 4


def test_factors_have_roles_inside_their_matrix_role() -> None:
    model = Lora(rank=4).wrap(small_llama(), seed=0)
    inside, outside = adapters.split(model, MATRIX_ROLES)
    assert len(inside) == 2 * 7 * 4
    assert {member.name.rsplit(".", 1)[1] for member in inside} == {"lora_a", "lora_b"}
    assert {member.name.rsplit(".", 1)[1] for member in outside} == {"weight"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rank": 0}, "rank = 0"), ({"alpha": 0.0}, "alpha"), ({"dropout": 1.0}, "probability below 1"), ({"dense_lr": -1.0}, "dense_lr")],
)
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**fields)  # type: ignore[arg-type]


def test_a_rank_above_the_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="rank = 64: expected 1 to 16"):
        Lora(rank=64).wrap(small_llama(), seed=0)


def test_roles_that_match_nothing_are_named() -> None:
    with pytest.raises(ValueError, match=r"no linear module of these roles; it has attn.k, attn.o"):
        Lora(matrices=("attn.qkv",)).wrap(small_llama(), seed=0)
