"""G_stack: what is copied, when, and that only the depth changes."""

from __future__ import annotations

import pytest
import torch
from loop import Loop, assert_learns, assert_resumes, small_llama
from torch import nn

from submissions.g_stack import GStack


def test_layers_are_copies_of_the_shallow_ones_at_the_moment_of_growth() -> None:
    loop = Loop(GStack(growth=2, grow_at=0.3), steps=10)
    loop.run(3)
    shallow = [{key: value.clone() for key, value in layer.state_dict().items()} for layer in loop.model.layers]
    assert len(shallow) == 2
    loop.training.t += 1
    loop.submission.before_step(loop.training)
    assert len(loop.model.layers) == 4
    for number, layer in enumerate(loop.model.layers):
        for key, value in layer.state_dict().items():
            assert torch.equal(value, shallow[number % 2][key])
    weights = [parameter for layer in loop.model.layers for parameter in layer.parameters()]
    assert len({parameter.data_ptr() for parameter in weights}) == len(weights)


def test_the_first_layers_are_those_of_the_full_model() -> None:
    full, shallow = small_llama(), GStack(growth=4).wrap(small_llama(), 0)
    assert len(shallow.layers) == 1
    assert torch.equal(shallow.layers[0].attn.q.weight, full.layers[0].attn.q.weight)
    assert torch.equal(shallow.head.weight, full.head.weight)


def test_the_optimizer_starts_anew_and_owns_the_grown_model() -> None:
    loop = Loop(GStack(growth=2, grow_at=0.5), steps=4)
    loop.run(2)
    before = loop.training.optimizers
    loop.run(1)
    (after,) = loop.training.optimizers
    assert after is not before[0]
    assert all(entry["step"] == 1 for entry in after.state.values())
    assert len(after.state) == len(list(loop.model.parameters()))


def test_without_growth_it_is_adamw() -> None:
    loop = Loop(GStack(growth=1, grow_at=0.99), steps=12)
    model = small_llama()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    loop.run(8)
    from loop import loss_of

    for t in range(1, 9):
        model.zero_grad()
        loss_of(model, t).backward()
        adamw.param_groups[0]["lr"] = 1e-3 * loop.submission.lr_factor(t, 12)
        adamw.step()
    for mine, reference in zip(loop.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_the_rate_rises_again_after_the_growth() -> None:
    submission = GStack(grow_at=0.5, rewarm=0.1, schedule="constant", warmup=0.0)
    factors = [submission.lr_factor(t, 100) for t in (50, 51, 55, 60, 61)]
    assert factors == pytest.approx([1.0, 0.1, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("before", [3, 4, 6])
def test_resumes_before_at_and_after_the_growth(before: int) -> None:
    assert_resumes(GStack(growth=2, grow_at=0.4), before=before, after=4, steps=10)


def test_learns() -> None:
    assert_learns(GStack(lr=1e-2, growth=2, grow_at=0.3))


def test_names_what_it_cannot_grow() -> None:
    with pytest.raises(ValueError, match=r"growth = 3: expected a divisor of 4, the number of layers"):
        GStack(growth=3).wrap(small_llama(), 0)
    with pytest.raises(ValueError, match=r"g_stack grows `model\.layers`"):
        GStack().wrap(nn.Linear(2, 2), 0)
