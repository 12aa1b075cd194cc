"""Step-by-step comparison of a submission with an independent optimizer on the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import linalg
from submissions.base import Submission

SHAPES = {"square": (24, 24), "tall": (40, 16), "wide": (16, 40)}
"""Matrices (out x in) of the test model, each twice so that stacks form."""
STEPS = 60


class Matrices(nn.Module):
    """Parameters with the roles of a LLaMA layer: two matrices of each shape, a head and a norm."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for role, shape in (("attn.q", "square"), ("mlp.up", "tall"), ("mlp.down", "wide")):
            for copy in "ab":
                layer = nn.Module()
                layer.role = role  # type: ignore[assignment]
                layer.weight = nn.Parameter((torch.randn(SHAPES[shape], generator=generator) * 0.1).to(dtype))
                self.add_module(f"{shape}_{copy}", layer)
        for name, shape in (("head", (30, 16)), ("norm", (16,))):
            layer = nn.Module()
            layer.role = name  # type: ignore[assignment]
            layer.weight = nn.Parameter((torch.randn(shape, generator=generator) * 0.1).to(dtype))
            self.add_module(name, layer)


def fill_gradients(model: nn.Module, step: int, feedback: float = 0.0) -> None:
    """Gradients with a decaying spectrum that depend on the step and, by `feedback`, on the weights."""
    for number, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(1000 * step + number)
        G = torch.randn(parameter.shape, generator=generator)
        if G.ndim == 2:
            U, s, V = torch.linalg.svd(G, full_matrices=False)
            G = U * (s * 0.8 ** torch.arange(len(s))) @ V
        parameter.grad = (G * 0.01 + feedback * parameter.detach()).to(parameter.dtype)


def largest_difference(
    submission: Submission,
    oracle: Callable[[Matrices], Iterable[Optimizer]],
    *,
    dtype: torch.dtype = torch.float32,
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, float]:
    """Largest |ours - theirs| of each parameter after `steps` updates at constant rates.

    In fp64 it is relative to the largest movement, and the gradients depend on the weights, so that any difference would grow. In lower
    precision, where rounding of the weights themselves sets the limit, it is relative to the largest weight.
    """
    feedback = 0.02 if dtype == torch.float64 else 0.0
    ours, theirs = Matrices(dtype), Matrices(dtype)
    start = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    own, other = submission.optimizers(ours, seed), list(oracle(theirs))
    for step in range(steps):
        fill_gradients(ours, step, feedback)
        fill_gradients(theirs, step, feedback)
        for optimizer in (*own, *other):
            optimizer.step()
    differences = {}
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        moved = (reference.detach() - start[name]).abs().max()
        assert moved > 0, f"{name}: the oracle did not move it"
        unit = moved if dtype == torch.float64 else reference.detach().abs().max()
        differences[name] = ((mine - reference).abs().max() / unit).item()
    return differences


def our_basis(matrix: Tensor, rank: int, side: str) -> Tensor:
    """Our singular basis in the shape that the GaLore-family projectors keep: r x n rows (`right`) or m x r columns (`left`)."""
    wide = (matrix.T if side == "right" else matrix).to(linalg.arithmetic(matrix.dtype))
    P_mr = linalg.leading_left(wide.unsqueeze(0), rank)[0].to(matrix.dtype)
    return P_mr.T if side == "right" else P_mr


def groups(model: Matrices, **matrix_options: object) -> list[dict[str, object]]:
    """Parameter groups in the GaLore-family form: the matrices with projector options, then the rest."""
    matrices = [p for name, p in model.named_parameters() if name.split("_")[0] in SHAPES]
    rest = [p for name, p in model.named_parameters() if name.split("_")[0] not in SHAPES]
    return [{"params": matrices, **matrix_options}, {"params": rest}]
