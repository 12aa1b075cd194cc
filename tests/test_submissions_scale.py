"""SCALE against its definition, written out for one matrix after the other."""

from __future__ import annotations

import pytest
import torch
from loop import small_llama
from parity import Matrices, fill_gradients
from torch import Tensor

from submissions.holdings import state_tensors
from submissions.scale import Scale


def normalised(G: Tensor, axis: int) -> Tensor:
    return G / G.square().mean(axis, keepdim=True).sqrt()


def test_scale_follows_its_definition() -> None:
    """Hidden matrices and the head by rows, the head on its momentum, the norm by AdamW; decay before the step."""
    model = Matrices(torch.float64)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Scale(lr=1e-2, weight_decay=0.1, dense_lr=1e-3).optimizers(model, seed=0)
    twin = torch.nn.Parameter(expected["norm.weight"])
    adamw = torch.optim.AdamW([twin], lr=1e-3, weight_decay=0.1)
    M = torch.zeros_like(expected["head.weight"])
    for step in range(10):
        fill_gradients(model, step, feedback=0.02)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        for optimizer in optimizers:
            optimizer.step()
        M = 0.9 * M + 0.1 * gradients["head.weight"]
        for name in expected.keys() - {"norm.weight"}:
            U = normalised(M if name == "head.weight" else gradients[name], 1)
            expected[name] = expected[name] * (1 - 1e-2 * 0.1) - 1e-2 * U
        twin.grad = gradients["norm.weight"]
        adamw.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), twin.detach() if name == "norm.weight" else expected[name], rtol=1e-9, atol=1e-12)


def test_embedding_is_normalised_over_its_tokens() -> None:
    model = small_llama(dtype=torch.float64)
    before = model.embed.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = model.embed.weight.grad
    assert gradient is not None
    for optimizer in Scale(lr=0.5).optimizers(model, seed=0):
        optimizer.step()
    torch.testing.assert_close(model.embed.weight.detach(), before - 0.5 * normalised(gradient, 0))


def test_only_the_head_and_the_vectors_have_state() -> None:
    model = small_llama()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept = 0
    for optimizer in Scale().optimizers(model, seed=0):
        optimizer.step()
        kept += sum(tensor.numel() for tensor in state_tensors(optimizer))
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    assert kept == model.head.weight.numel() + sum(2 * vector.numel() + 1 for vector in vectors)


def test_refuses_a_momentum_of_one() -> None:
    with pytest.raises(ValueError, match=r"momentum = 1.0: expected a number in \[0, 1\)"):
        Scale(momentum=1.0)
