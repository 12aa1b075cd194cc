"""prefix: attention with trained keys and values against the definition, and its limits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from loop import HIDDEN, LAYERS, SHAPES, Loop, assert_learns, assert_resumes, factor_elements, loss_of, small_llama, tokens
from torch import Tensor

from submissions.prefix import Prefix
from workloads.llama import Context, rotate


def prefixed(dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
    return Prefix(tokens=3, init=1.0, **fields).wrap(small_llama(0, dtype), seed=0)


def by_definition(attention: Any, x_btd: Tensor, cos_tk: Tensor, sin_tk: Tensor) -> tuple[Tensor, Tensor]:
    """The output of an attention layer with a prefix, position by position, and the weight that goes to the prefix."""
    heads, size = attention.heads, HIDDEN // attention.heads
    q, k, v = ((x_btd @ part.weight.T).unflatten(-1, (heads, size)) for part in (attention.q, attention.k, attention.v))
    q, k = rotate(q, cos_tk, sin_tk), rotate(k, cos_tk, sin_tk)
    P_k, P_v = (part.prefix.view(-1, heads, size) for part in (attention.k, attention.v))
    out, share = torch.zeros_like(x_btd), torch.zeros(*x_btd.shape[:2], heads, dtype=x_btd.dtype)
    for b in range(x_btd.shape[0]):
        for t in range(x_btd.shape[1]):
            for h in range(heads):
                keys = torch.cat((P_k[:, h], k[b, : t + 1, h]))
                weights = (keys @ q[b, t, h] / size**0.5).softmax(0)
                share[b, t, h] = weights[: len(P_k)].sum()
                out[b, t, h * size : (h + 1) * size] = weights @ torch.cat((P_v[:, h], v[b, : t + 1, h]))
    return out @ attention.o.weight.T, share


@torch.no_grad()
def test_attention_is_that_of_the_definition() -> None:
    model, x = prefixed(), torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    attention, cos, sin = model.layers[1].attn, model.cos_tk[:5], model.sin_tk[:5]
    expected, share = by_definition(attention, x, cos, sin)
    torch.testing.assert_close(attention(x, cos, sin), expected, rtol=1e-10, atol=1e-12)
    assert 0.1 < float(share.mean()) < 0.99


@torch.no_grad()
def test_an_empty_prefix_takes_its_share_of_the_attention_and_gives_nothing() -> None:
    model, plain = prefixed(), small_llama(0, torch.float64)
    attention = model.layers[0].attn
    attention.k.prefix.zero_()
    attention.v.prefix.zero_()
    x = torch.randn(1, 1, HIDDEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cos, sin = model.cos_tk[:1], model.sin_tk[:1]
    q, k = ((x @ part.weight.T).view(attention.heads, -1) for part in (attention.q, attention.k))
    own = ((q * k).sum(1) / q.shape[1] ** 0.5).exp()
    kept = (own / (own + 3)).repeat_interleave(q.shape[1])  # one position: it shares with three keys of weight exp(0)
    alone = plain.layers[0].attn
    torch.testing.assert_close(attention(x, cos, sin), (kept * (x @ alone.v.weight.T)) @ alone.o.weight.T)


@torch.no_grad()
def test_reading_in_two_pieces_is_reading_at_once() -> None:
    model, text = prefixed(), tokens(1)[:, :8]
    whole = model.features(text)
    context = Context()
    model.features(text[:, :5], context=context)
    context.mask_bts = torch.ones(8, 8, dtype=torch.bool).tril()[None, 5:]
    places = torch.arange(5, 8).expand(len(text), 3)
    torch.testing.assert_close(model.features(text[:, 5:], places, context), whole[:, 5:])


def test_only_the_prefix_trains_and_a_copy_has_its_own() -> None:
    model = prefixed(torch.float32)
    assert {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.requires_grad} == {"prefix"}
    before = loss_of(model, 1).item()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[0].attn.v.prefix.add_(1.0)
    assert loss_of(model, 1).item() == before
    assert loss_of(other, 1).item() != before


@pytest.mark.parametrize("role", ["attn.k", "attn.v", "attn.q"])
def test_state_of_a_matrix_is_the_declared_one(role: str) -> None:
    submission = Prefix(tokens=5)
    loop = Loop(submission)
    loop.run(1)
    shares = {one: factor_elements(submission, 1, "attn.q") if one in SHAPES else 0.0 for one in SHAPES}
    assert shares["attn.q"] == 0
    assert loop.state_elements() == LAYERS * 2 * (2 * 5 * HIDDEN + 1)
    expected = (2 * 5 * HIDDEN + 1) * (role != "attn.q")
    names = {**vars(submission), "rows": HIDDEN, "columns": HIDDEN, "role": role}
    assert eval(submission.memory, {"__builtins__": {}}, names) == expected


def test_a_kill_leaves_no_trace() -> None:
    assert_resumes(Prefix(tokens=4, lr=1e-2), before=4, after=5)


def test_it_learns() -> None:
    assert_learns(Prefix(tokens=4, lr=2e-2, rest="train"))


@pytest.mark.parametrize("fields", [{"tokens": 0}, {"init": -1.0}, {"matrices": ("attn.k",)}])
def test_a_value_out_of_range_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Prefix(**fields)


def test_roles_that_match_nothing_are_named() -> None:
    with pytest.raises(ValueError, match=r"no attention module has both; the model has attn.k, attn.o"):
        Prefix(matrices=("attn.kv", "attn.v")).wrap(small_llama(), seed=0)
