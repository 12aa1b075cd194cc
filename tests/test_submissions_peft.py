"""peft: the library's adapters on our models, with roles, Adam and resume."""

from __future__ import annotations

import sys
import typing

import pytest
import torch
from loop import LAYERS, Loop, assert_learns, assert_resumes, loss_of, small_llama

from submissions import adapters
from submissions.base import MATRIX_ROLES, Training, named_roles
from submissions.lora import Lora
from submissions.peft import Method, Peft

pytest.importorskip("peft")
METHODS = typing.get_args(Method)
UNCHANGED = set(METHODS) - {"pissa", "olora"}


def rule(method: str, **fields: object) -> Peft:
    options: dict[str, object] = {"rank": 4, "alpha": 8.0, "init_rank": 6, "every": 1, "lr": 1e-2}
    return Peft(method=method, **(options | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_base_model_and_only_adapters_train(method: str) -> None:
    model = rule(method).wrap(small_llama(), seed=0)
    assert loss_of(model, 1).item() == pytest.approx(loss_of(small_llama(), 1).item(), rel=1e-5)
    trained = {role for _, role, _ in named_roles(model)}
    assert trained
    assert all(any(role.startswith(f"{matrix}.") for matrix in MATRIX_ROLES) for role in trained)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and ("base_layer" in name or "embed" in name)]


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_the_adapters_and_no_frozen_weight_by_a_bit(method: str) -> None:
    loop = Loop(rule(method))
    before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    loop.run(3)
    for name, p in loop.model.named_parameters():
        if not p.requires_grad:
            assert torch.equal(p, before[name]), name
    moved = [name for name, p in loop.model.named_parameters() if p.requires_grad and not torch.equal(p, before[name])]
    assert len(moved) >= 7 * LAYERS


def test_lora_is_our_own_lora() -> None:
    theirs = Loop(rule("lora", lr=1e-2), dtype=torch.float64)
    ours = Loop(Lora(rank=4, alpha=8.0, rest="freeze", lr=1e-2), dtype=torch.float64)
    with torch.no_grad():
        for name, module in adapters.factored(ours.model):
            layer = theirs.model.get_submodule(name)
            module.lora_a.copy_(layer.lora_A["default"].weight)
    assert ours.run(20) == pytest.approx(theirs.run(20), rel=1e-9)


def test_lora_plus_moves_b_faster() -> None:
    model = rule("lora_plus", ratio=8.0).wrap(small_llama(), seed=0)
    slow, fast = rule("lora_plus", ratio=8.0).optimizers(model, seed=0)
    assert fast.param_groups[0]["lr"] == 8 * slow.param_groups[0]["lr"]
    assert {p.shape[1] for p in fast.param_groups[0]["params"]} == {4}
    assert {len(p) for p in slow.param_groups[0]["params"]} == {4}


def test_adalora_masks_down_to_its_budget() -> None:
    loop = Loop(rule("adalora", rank=2, init_rank=4, start=0.1, end=0.4), steps=40)
    loop.run(40)
    kept = [module.lora_E["default"].count_nonzero().item() for module in loop.model.modules() if hasattr(module, "lora_E")]
    assert len(kept) == 7 * LAYERS
    assert sum(kept) == pytest.approx(2 * 7 * LAYERS, abs=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_kill_leaves_no_trace(method: str) -> None:
    dropout = 0.1 if method in ("lora", "dora") else 0.0
    assert_resumes(rule(method, dropout=dropout), before=3, after=3)


@pytest.mark.parametrize("before", [3, 9, 15, 17])
def test_a_kill_leaves_no_trace_in_the_budget_of_adalora(before: int) -> None:
    assert_resumes(rule("adalora", start=0.2, end=0.2), before=before, after=3, steps=20)


@pytest.mark.parametrize("method", METHODS)
def test_state_is_predicted_without_weights(method: str) -> None:
    submission, loop = rule(method), Loop(rule(method))
    loop.run(1)
    meta = submission.wrap(small_llama(device="meta"), seed=0)
    trained = [p for p in meta.parameters() if p.requires_grad]
    own = sum(tensor.numel() for tensor in loop.training.state.values())
    assert loop.state_elements() - own == sum(2 * p.numel() + 1 for p in trained)
    begun = Training(model=meta, seed=0, steps=40)
    submission.begin(begun)
    assert own == sum(tensor.numel() for tensor in begun.state.values())
    assert (own > 0) == (method == "adalora")


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "adalora"])
def test_it_learns(method: str) -> None:
    assert_learns(rule(method, rest="train", rank=8, init_rank=10))


def test_roles_that_match_nothing_are_named() -> None:
    with pytest.raises(ValueError, match="no module of the model has one of these roles; it has attn"):
        Peft(matrices=("attn.qkv",)).wrap(small_llama(), seed=0)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'slimperf\[finetune\]'"):
        Peft().wrap(small_llama(), seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rank": 0}, "rank = 0"), ({"method": "adalora", "init_rank": 8}, "init_rank"), ({"start": 0.7}, "start"), ({"ratio": 0.0}, "ratio")],
)
def test_a_value_out_of_range_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Peft(**fields)  # type: ignore[arg-type]
