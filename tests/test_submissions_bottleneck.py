"""bottleneck: where the adapter sits, and what it costs."""

from __future__ import annotations

import typing

import pytest
import torch
from loop import SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama
from torch.nn import functional as F

from submissions.bottleneck import Activation, Adapted, Bottleneck


def adapted(model: torch.nn.Module) -> list[Adapted]:
    return [module for module in model.modules() if isinstance(module, Adapted)]


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_the_start_is_the_base_model_and_only_adapters_train(placement: str) -> None:
    model = Bottleneck(placement=placement, size=4).wrap(small_llama(), seed=0)  # type: ignore[arg-type]
    assert loss_of(model, 1).item() == loss_of(small_llama(), 1).item()
    assert len(adapted(model)) == 2 * 4
    assert {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.requires_grad} == {"adapter_a", "adapter_b"}


@pytest.mark.parametrize("activation", typing.get_args(Activation))
def test_serial_sees_the_output_and_parallel_the_input(activation: str) -> None:
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    function = torch.tanh if activation == "tanh" else getattr(F, activation)
    for placement in ("serial", "parallel"):
        rule = Bottleneck(placement=placement, size=3, scale=0.5, matrices=("mlp.down",), activation=activation)  # type: ignore[arg-type]
        module = adapted(rule.wrap(small_llama(), seed=0))[0]
        torch.nn.init.normal_(module.adapter_b)
        z = x @ module.weight.T
        seen = z if placement == "serial" else x
        assert torch.allclose(module(x), z + 0.5 * function(seen @ module.adapter_a.T) @ module.adapter_b.T, atol=1e-6)


def test_frozen_weights_do_not_move_by_a_bit() -> None:
    loop = Loop(Bottleneck(size=4, lr=1e-2))
    before = {name: p.clone() for name, p in loop.model.named_parameters() if not p.requires_grad}
    loop.run(3)
    assert all(torch.equal(p, before[name]) for name, p in loop.model.named_parameters() if name in before)
    assert all(bool(module.adapter_b.any()) for module in adapted(loop.model))


@pytest.mark.parametrize(("placement", "role"), [("serial", "attn.q"), ("serial", "mlp.down"), *(("parallel", role) for role in SHAPES)])
def test_state_of_a_matrix_is_the_declared_one(placement: str, role: str) -> None:
    submission = Bottleneck(placement=placement, size=5, matrices=(role,))  # type: ignore[arg-type]
    loop = Loop(submission)
    loop.run(1)
    assert loop.state_elements() == 4 * factor_elements(submission, 0, role)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_kill_leaves_no_trace(dropout: float) -> None:
    assert_resumes(Bottleneck(size=4, lr=1e-2, dropout=dropout), before=3, after=3)


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_it_learns(placement: str) -> None:
    assert_learns(Bottleneck(placement=placement, size=16, lr=1e-2, rest="train"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("fields", "message"), [({"size": 0}, "size = 0"), ({"scale": 0.0}, "scale"), ({"dropout": 1.0}, "probability")])
def test_a_value_out_of_range_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bottleneck(**fields)  # type: ignore[arg-type]
