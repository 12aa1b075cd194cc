"""Collects what updates hand out, without waiting for the device, and writes it at the next measuring point.

One value per matrix becomes a point of the record; a probe with a value for each index of an axis becomes a point with their mean,
and the values themselves, of all indices or of a sample, go to a file of their own: `<trial>.<attempt>.probes` (see record.PROBE_ROW).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from runner.record import PROBE_ROW, Point
from submissions.base import Probes
from submissions.dense import ElementwiseAdam
from submissions.engine import MatrixOptimizer

PART = "probes"
"""The clock's part that measures what recording costs."""
TINY = 1e-38
Part = Callable[[str], AbstractContextManager[Any]]


@functools.cache
def sampled(name: str, length: int, count: int | None) -> tuple[int, ...] | None:
    """The indices of an axis that are kept: drawn without replacement from the matrix's name alone, so that all runs share them."""
    if count is None or count >= length:
        return None
    seed = int.from_bytes(hashlib.sha256(f"indices of {name}".encode()).digest()[:8], "big")
    return tuple(sorted(random.Random(seed).sample(range(length), count)))


@dataclass
class Held:
    """One probe of one stack of matrices, still on the device."""

    step: int
    key: str
    names: list[str]
    mean_b: Tensor
    values_bk: Tensor | None
    length: int
    """Of the axis that the values were taken from."""


@dataclass
class Vector:
    """One value for each of the file's matrices, in their order; never a point."""

    step: int
    key: str
    values_b: Tensor


class Collector:
    """Probes since the last flush."""

    def __init__(self, path: Path | None = None, header: dict[str, Any] | None = None, indices: int | None = 100) -> None:
        """`path`: where rows go; without it only means are kept."""
        self.path, self.header, self.indices = path, header or {}, indices
        self.pending: list[Held | Vector] = []
        self.step = 0
        self.part: Part = lambda name: contextlib.nullcontext()
        self._chosen: dict[tuple[str, int], Tensor] = {}

    def __call__(self, probes: Probes, names: list[str]) -> None:
        with self.part(PART):
            for key, value in probes.items():
                _check(key, value, names)
                value_bk = value.detach().float().flatten(1)
                length = value_bk.shape[1]
                kept = self._kept(value_bk, names) if length > 1 and self.path is not None else None
                self.pending.append(Held(self.step, key, list(names), value_bk.mean(1), kept, length))

    def vector(self, key: str, values_b: Tensor) -> None:
        """Takes one value for each of the file's matrices."""
        self.pending.append(Vector(self.step, key, values_b.detach().float()))

    def flush(self, seconds: float, tokens: int) -> list[Point]:
        """Writes the pending rows; returns the pending points, with the clock reading of this flush."""
        points = []
        rows = bytearray()
        for held in self.pending:
            if isinstance(held, Vector):
                rows += _row(held.step, held.key, "", len(held.values_b), held.values_b)
                continue
            for name, number in zip(held.names, held.mean_b.tolist(), strict=True):
                points.append(Point(step=held.step, seconds=seconds, tokens=tokens, name=held.key, value=number, param=name))
            if held.values_bk is not None:
                values_bk = held.values_bk.cpu()
                for name, values_k in zip(held.names, values_bk, strict=True):
                    rows += _row(held.step, held.key, name, held.length, values_k)
        self.pending.clear()
        if rows and self.path is not None:
            self._append(bytes(rows))
        return points

    def state(self) -> list[Any]:
        """For a checkpoint between two flushes."""
        found: list[Any] = []
        for held in self.pending:
            if isinstance(held, Vector):
                found.append([held.step, held.key, held.values_b.cpu()])
            else:
                values = held.values_bk.cpu() if held.values_bk is not None else None
                found.append([held.step, held.key, held.names, held.mean_b.cpu(), values, held.length])
        return found

    def restore(self, state: list[Any]) -> None:
        self.pending = [Vector(*entry) if len(entry) == 3 else Held(*entry) for entry in state]

    def _kept(self, value_bk: Tensor, names: list[str]) -> Tensor:
        """The values at the sampled indices of each matrix."""
        length = value_bk.shape[1]
        if sampled(names[0], length, self.indices) is None:
            return value_bk.clone()
        key = (names[0], length)
        if key not in self._chosen:
            self._chosen[key] = torch.tensor([sampled(name, length, self.indices) for name in names], device=value_bk.device)
        return value_bk.gather(1, self._chosen[key])

    def _append(self, rows: bytes) -> None:
        assert self.path is not None
        if not self.path.exists():
            rows = json.dumps(self.header, separators=(",", ":")).encode() + b"\n" + rows
        with self.path.open("ab") as file:
            file.write(rows)


def _check(key: str, value: object, names: list[str]) -> None:
    if not isinstance(value, Tensor) or not 1 <= value.ndim <= 2 or len(value) != len(names):
        given = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(
            f"probe {key!r} of {names[0]} is {given}: expected a tensor whose first axis is {len(names)}, a value for each matrix of the"
            " stack, with at most one more axis"
        )


def of_adam(optimizers: list[Optimizer], names: dict[int, str]) -> Iterator[tuple[Probes, list[str]]]:
    """phi of every matrix that an Adam has just updated, from its moments and the gradient it saw; others give nothing.

    `phi` has ||psi_j|| / ||G_j|| for each index j of the long axis, `phi_matrix` the quotient of Frobenius norms, with
    psi = m / (sqrt(v) + eps) before bias correction, as the projected methods have it.

    Args:
        names: of the matrices to look at, by the `id` of their parameter.
    """
    for optimizer in optimizers:
        for parameter, m, v, eps in _moments(optimizer):
            if id(parameter) in names and parameter.grad is not None:
                yield factors(m.float() / v.float().sqrt().add_(eps), parameter.grad.float()), [names[id(parameter)]]


def factors(psi_mn: Tensor, G_mn: Tensor) -> Probes:
    """`phi` (1 x long axis; rows if the matrix is square) and `phi_matrix` (1 x 1) of one matrix as it is stored."""
    short = 1 if G_mn.shape[0] >= G_mn.shape[1] else 0
    psi_k, G_k = psi_mn.norm(dim=short), G_mn.norm(dim=short)
    return {"phi": (psi_k / G_k.clamp_min(TINY))[None], "phi_matrix": (psi_k.norm() / G_k.norm().clamp_min(TINY))[None, None]}


def _moments(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """(parameter, m, v, eps beside the raw sqrt(v)) of torch's Adams and of ours."""
    if isinstance(optimizer, MatrixOptimizer):
        rule = optimizer.rule
        if isinstance(rule, ElementwiseAdam):
            eps = rule.eps if rule.raw_eps else rule.eps * (1 - rule.betas[1] ** optimizer.t) ** 0.5
            for stack in optimizer.stacks:
                yield from ((p, m, v, eps) for p, m, v in zip(stack.parameters, stack.state["m"], stack.state["v"], strict=True))
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if {"step", "exp_avg", "exp_avg_sq"} <= state.keys() and state["exp_avg"].shape == parameter.shape:
                correction = (1 - group["betas"][1] ** float(state["step"])) ** 0.5
                yield parameter, state["exp_avg"], state["exp_avg_sq"], group["eps"] * correction


def _row(step: int, key: str, param: str, length: int, values: Tensor) -> bytes:
    name, where = key.encode(), param.encode()
    body = values.cpu().contiguous().numpy().astype("<f4").tobytes()
    return struct.pack(PROBE_ROW, step, len(name), len(where), length, values.numel()) + name + where + body
