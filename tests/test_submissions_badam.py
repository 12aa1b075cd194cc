"""badam: parity with the package, and who trains when."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loop import HIDDEN, LAYERS, MLP, Loop, assert_learns, assert_resumes, small_llama
from torch import Tensor, nn

from submissions.badam import Badam

GOLDEN = Path(__file__).parent / "golden" / "badam.json"
UPDATES = 60
CASES: dict[str, dict[str, Any]] = {
    "descending": {"order": "descending"},
    "ascending": {"order": "ascending", "embedding": True, "head": True},
    "decayed": {"order": "descending", "head": True, "weight_decay": 0.1},
}


def train(model: nn.Module, optimizer: object, before_step: Callable[[int], None]) -> dict[str, Tensor]:
    """Movement of each parameter after updates on gradients that depend on the step alone."""
    parameters = dict(small_llama().named_parameters())
    start = {name: p.detach().clone() for name, p in parameters.items()}
    for step in range(1, UPDATES + 1):
        before_step(step)
        for number, name in enumerate(parameters):
            p = model.get_parameter(name)
            gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(1000 * step + number)) * 0.01
            p.grad = gradient if p.requires_grad else None
        optimizer.step()  # type: ignore[attr-defined]
    return {name: model.get_parameter(name).detach() - start[name] for name in parameters}


def package_movement(case: dict[str, Any]) -> dict[str, Tensor]:
    """By the package's own class."""
    badam = pytest.importorskip("badam")
    model = small_llama()
    # It finds blocks by parts of Hugging Face's names.
    expected_names = {"embed.weight": "embed_tokens.weight", "head.weight": "lm_head.weight"}
    named = [(f"model.{expected_names.get(name, name)}", p) for name, p in model.named_parameters()]
    base = torch.optim.AdamW([p for _, p in named], lr=1e-2, weight_decay=case.get("weight_decay", 0.0))
    blocks = {"include_embedding": case.get("embedding", False), "include_lm_head": case.get("head", False)}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(badam.block_optim.gc, "collect", lambda: 0)  # a second at each switch
        optimizer = badam.BlockOptimizer(base, named, switch_block_every=7, switch_mode=case["order"], verbose=0, **blocks)
        return train(model, optimizer, lambda step: None)


def our_movement(case: dict[str, Any]) -> dict[str, Tensor]:
    loop = Loop(Badam(gap=7, short_first=True, lr=1e-2, schedule="constant", warmup=0, **case))

    def before_step(step: int) -> None:
        loop.training.t = step
        loop.submission.before_step(loop.training)

    class Newest:
        def step(self) -> None:
            for optimizer in loop.training.optimizers:
                optimizer.step()

    return train(loop.model, Newest(), before_step)


def summary(movement: Tensor) -> list[float]:
    """Norm and a random linear function."""
    probe = torch.randn(movement.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [movement.double().norm().item(), (movement * probe).sum().item()]


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_package(case: str) -> None:
    theirs, ours = package_movement(CASES[case]), our_movement(CASES[case])
    assert sum(bool(moved.any()) for moved in theirs.values()) >= 9 * LAYERS
    for name, start in small_llama().named_parameters():
        assert (ours[name] - theirs[name]).abs().max() <= 1e-6 * start.abs().max(), name


@pytest.mark.parametrize("case", CASES)
def test_training_is_what_the_package_gave(case: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"][case]
    for name, movement in our_movement(CASES[case]).items():
        assert summary(movement) == pytest.approx(golden[name], rel=1e-5, abs=1e-6), name


def trained(loop: Loop) -> set[str]:
    return {".".join(name.split(".")[:2]) for name, p in loop.model.named_parameters() if p.requires_grad}


def test_blocks_take_turns_and_the_others_do_not_move_by_a_bit() -> None:
    loop = Loop(Badam(gap=3, embedding=True, head=True, lr=1e-2))
    for expected in (
        {"head.weight", "norm.weight"},
        *({f"layers.{n}"} for n in (3, 2, 1, 0)),
        {"embed.weight"},
        {"head.weight", "norm.weight"},
    ):
        before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
        loop.run(3)
        assert trained(loop) == expected
        moved = {".".join(name.split(".")[:2]) for name, p in loop.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == expected


def test_a_random_order_visits_every_block_once_a_round() -> None:
    model, rule = small_llama(), Badam(order="random")
    rounds = [[rule.selected(model, 0, LAYERS * turn + place)[0].name for place in range(LAYERS)] for turn in range(8)]
    assert all(len(set(one)) == LAYERS for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 2), (torch.bfloat16, 3)])
def test_state_is_that_of_one_block(dtype: torch.dtype, kept: int) -> None:
    loop = Loop(Badam(gap=2), dtype=dtype)
    for _ in range(3):
        loop.run(3)
        assert loop.state_elements() == kept * (4 * HIDDEN**2 + 3 * HIDDEN * MLP + 2 * HIDDEN) + 9


def test_bf16_weights_are_the_rounding_of_an_fp32_copy() -> None:
    low, high = Loop(Badam(gap=100, lr=1e-4, weight_decay=0.1), dtype=torch.bfloat16), Loop(Badam(gap=100, lr=1e-4, weight_decay=0.1))
    (optimizer,) = low.training.optimizers
    (reference,) = high.training.optimizers
    for step in range(5):
        for mine, theirs in zip(optimizer.param_groups[0]["params"], reference.param_groups[0]["params"], strict=True):
            if step == 0:
                theirs.data.copy_(mine.detach())
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
            theirs.grad = mine.grad.float()
        optimizer.step()
        reference.step()
    for mine, theirs in zip(optimizer.param_groups[0]["params"], reference.param_groups[0]["params"], strict=True):
        assert torch.allclose(optimizer.state[mine]["master"], theirs, rtol=1e-6, atol=1e-8)
        assert torch.equal(mine, optimizer.state[mine]["master"].bfloat16())


def test_bf16_state_of_bf16_weights_is_in_bf16() -> None:
    (optimizer,) = Loop(Badam(state_dtype="bf16"), dtype=torch.bfloat16).training.optimizers
    kept = {key: {entry[key].dtype for entry in optimizer.state.values()} for key in ("master", "m", "v")}
    assert kept == {"master": {torch.float32}, "m": {torch.bfloat16}, "v": {torch.bfloat16}}


@pytest.mark.parametrize("state_dtype", ["fp32", "bf16_stochastic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["descending", "random"])
@pytest.mark.parametrize("before", [2, 3])
def test_a_kill_leaves_no_trace(order: str, before: int, dtype: torch.dtype, state_dtype: Any) -> None:
    rule = Badam(gap=3, order=order, lr=1e-2, head=True, state_dtype=state_dtype)  # type: ignore[arg-type]
    assert_resumes(rule, before=before, after=5, dtype=dtype)


def test_it_learns() -> None:
    assert_learns(Badam(gap=5, lr=2e-2, embedding=True, head=True))


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="gap = 0"):
        Badam(gap=0)
