"""What every test of a per-matrix rule needs: single steps, exact memory, save and load, golden numbers."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from parity import Matrices, fill_gradients
from torch import Tensor
from torch.optim import Optimizer

from submissions import engine
from submissions.base import MatrixSubmission, Probes, State, Submission

GOLDEN = Path(__file__).parent / "golden"


def gradients(shape: tuple[int, int], count: int, seed: int = 0, decay: float = 0.8) -> list[Tensor]:
    """`count` fp64 gradients (1 x m x n) with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        U, s, V = torch.linalg.svd(torch.randn(1, *shape, generator=generator, dtype=torch.float64), full_matrices=False)
        found.append(0.01 * (U * (s * decay ** torch.arange(s.shape[-1]))[:, None, :]) @ V)
    return found


def steps(
    rule: MatrixSubmission, given: Iterable[Tensor], state: State | None = None, start: int = 1
) -> tuple[list[Tensor], State, list[Probes]]:
    """Directions, last state and probes of updating with these gradients, as the engine calls the rule."""
    directions, probes = [], []
    for t, G in enumerate(given, start):
        if state is None:
            state = rule.init(torch.zeros_like(G))
            if rule.seeded:
                state["seed_b"] = torch.arange(len(G)) + 7
        G = G.clone()
        if rule.refreshes(t):
            rule.refresh(G, state, t)
        U, found = rule.update(G, state, t)
        directions.append(U.clone())
        probes.append(found)
    assert state is not None
    return directions, state, probes


def elements(rule: MatrixSubmission, rows: int, columns: int) -> float:
    """The declared memory formula for one matrix, in elements of 4 bytes."""
    names = {"m": min(rows, columns), "n": max(rows, columns), "ceil": math.ceil} | dataclasses.asdict(rule)
    return eval(rule.memory, {"__builtins__": {}}, names)


def assert_memory_is_exact(rule: MatrixSubmission) -> None:
    """Bytes of each stack's state are what the formula says, before and after updates, for square, tall and wide matrices."""
    model = Matrices()
    optimizer = rule.optimizers(model, 0)[0]
    assert isinstance(optimizer, engine.MatrixOptimizer)
    for step in range(3):
        assert len(optimizer.stacks) == 3
        for stack in optimizer.stacks:
            measured = sum(value.numel() * value.element_size() for value in stack.state.values()) / 4
            assert measured == elements(rule, *stack.parameters[0].shape) * len(stack.parameters), stack.names
        fill_gradients(model, step)
        optimizer.step()


def train(model: Matrices, optimizers: list[Optimizer], first: int, last: int) -> None:
    for step in range(first, last):
        fill_gradients(model, step, feedback=0.02)
        for optimizer in optimizers:
            optimizer.step()


def assert_resumes_bit_identically(submission: Submission, half: int = 4) -> None:
    """Saved, loaded with weights_only and continued, it ends at the same bits as without interruption."""
    whole = Matrices()
    train(whole, submission.optimizers(whole, 3), 0, 2 * half)
    model = Matrices()
    optimizers = submission.optimizers(model, 3)
    train(model, optimizers, 0, half)
    file = io.BytesIO()
    torch.save([model.state_dict(), [optimizer.state_dict() for optimizer in optimizers]], file)
    file.seek(0)
    weights, states = torch.load(file, weights_only=True)
    model = Matrices(seed=1)
    model.load_state_dict(weights)
    optimizers = submission.optimizers(model, 3)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    train(model, optimizers, half, 2 * half)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name)), name


def assert_stacking_does_not_matter(rule: MatrixSubmission) -> None:
    """Matrix by matrix the engine takes the same steps as stack by stack, to rounding."""
    weights = []
    for stacked in (True, False):
        model = Matrices(torch.float64)
        members = [engine.Named(name, p) for name, p in model.named_parameters() if name.split("_")[0] in ("square", "tall", "wide")]
        train(model, [engine.MatrixOptimizer(rule, members, lr=1e-2, seed=0, stacked=stacked)], 0, 8)
        weights.append([parameter for _, parameter in members])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def final_weights(optimizers: Callable[[Matrices], Iterable[Optimizer]], steps: int) -> dict[str, list[float]]:
    """Norm and three entries of each parameter after `steps` updates in fp64: what a golden file keeps."""
    model = Matrices(torch.float64)
    own = list(optimizers(model))
    train(model, own, 0, steps)
    return {name: [p.norm().item(), *p.detach().flatten()[[0, 7, -1]].tolist()] for name, p in model.named_parameters()}


def golden(name: str) -> dict[str, dict[str, list[float]]]:
    """Cases recorded from an independent implementation: {case: {parameter: numbers}}; `oracle` says which."""
    found: dict[str, dict[str, list[float]]] = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return found


def assert_golden(found: dict[str, list[float]], expected: dict[str, list[float]], tolerance: float = 1e-6) -> None:
    """Within `tolerance` of each parameter's norm: gradients are made with an SVD, whose rounding differs between machines."""
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert max(abs(a - b) for a, b in zip(found[name], numbers, strict=True)) <= tolerance * numbers[0], name
