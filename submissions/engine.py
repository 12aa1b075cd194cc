"""How the rules are executed: one definition of the mathematics, run over stacks or matrix by matrix.

`MatrixOptimizer` is an ordinary torch optimizer, so a submission can also be used outside of SlimPerf:
`for optimizer in Fira(rank=64).optimizers(model, seed=0): ...`.

On a CPU stacking pays only for small matrices (large temporaries are paged in anew each step); on a GPU it saves launches.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import linalg, pieces
from submissions.base import Direction, MatrixSubmission, Probes, State

ALONE: ContextVar[bool] = ContextVar("ALONE", default=False)
"""True while optimizers are made whose matrices must be updated one by one, as soon as each has its gradient."""
CPU_STACKED_BELOW = 2**16
"""Elements of a matrix up to which a CPU stacks it with its equals."""
STACK_ELEMENTS = {"cpu": 2**20, "cuda": 2**27, "meta": 2**27}
"""Largest stack, in elements: fits a CPU's cache; bounds a GPU's temporaries."""


class Named(NamedTuple):
    name: str
    parameter: nn.Parameter


class Stack:
    """Matrices of one shape that are updated together, and their state."""

    def __init__(self, members: Sequence[Named], rule: MatrixSubmission, seed: int) -> None:
        self.names = [member.name for member in members]
        self.parameters: list[Tensor] = [member.parameter for member in members]
        first = self.parameters[0]
        self.transposed = rule.wide and first.shape[0] >= first.shape[1]
        self.bf16 = rule.state_dtype != "fp32"
        self.stochastic = rule.state_dtype == "bf16_stochastic"
        self.direct = len(members) == 1 and first.dtype == linalg.arithmetic(first.dtype)
        """Whether the terms of a direction can be added to the weight one by one without rounding it twice."""
        self.seed = seed_of(seed, self.names[0])
        state: State = {}
        if rule.seeded:
            state["seed_b"] = torch.tensor([seed_of(seed, name) for name in self.names])
        with torch.no_grad():
            weights = [parameter.detach() for parameter in self.parameters]
            W_bmn = torch.stack(weights) if len(weights) > 1 else weights[0].unsqueeze(0)
            state.update(rule.init(W_bmn.mT if self.transposed else W_bmn))
        _check_state(rule, state, len(members))
        self.state = {key: value.bfloat16() if self._shortened(value) else value for key, value in state.items()}

    def gradient(self) -> Tensor:
        """G_bmn in the arithmetic's dtype: a view of `.grad` where that is possible, else a copy that lives for this update alone."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if len(gradients) < len(self.parameters):
            missing = next(name for name, parameter in zip(self.names, self.parameters, strict=True) if parameter.grad is None)
            raise ValueError(
                f"parameter {missing} has no gradient: it takes no part in the loss, or was frozen after the optimizer was made"
            )
        first = gradients[0]
        dtype = linalg.arithmetic(first.dtype)
        if len(gradients) == 1:
            G_bmn = first.unsqueeze(0).to(dtype)
        else:
            G_bmn = first.new_empty(len(gradients), *first.shape, dtype=dtype)
            torch._foreach_copy_(list(G_bmn.unbind()), gradients)
        return G_bmn.mT if self.transposed else G_bmn

    def working_state(self) -> State:
        """The state in fp32: itself, or a copy to be put back by `keep`."""
        if not self.bf16:
            return self.state
        return {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in self.state.items()}

    def keep(self, state: State, t: int) -> None:
        """Stores the state after an update, rounded to nearest or stochastically if it is kept in bf16."""
        if state is self.state:
            return
        for number, (key, value) in enumerate(sorted(state.items())):
            if not self._shortened(value):
                self.state[key] = value
            elif self.stochastic:
                self.state[key] = stochastic_bf16(value, seed=self.seed + 1_000_003 * t + number)
            else:
                self.state[key] = value.bfloat16()

    def apply(self, U_bmn: Tensor, lr: float) -> None:
        """W <- W - lr U."""
        updates = (U_bmn.mT if self.transposed else U_bmn).unbind()
        if len(updates) == 1:
            self.parameters[0].add_(updates[0], alpha=-lr)
        else:
            torch._foreach_add_(self.parameters, list(updates), alpha=-lr)

    def apply_terms(self, U: Direction, lr: float) -> None:
        """W <- W - lr (gain G + P X), term by term into the weight of a stack of one."""
        W_mn = self.parameters[0].mT if self.transposed else self.parameters[0]
        if U.product is not None:
            P_bmr, X_brn = U.product
            W_mn.addmm_(P_bmr[0], X_brn[0], alpha=-lr)
        if U.scaled is not None:  # second: the product has brought the weight into the cache
            G_bmn, gain_b1n = U.scaled
            W_mn.addcmul_(G_bmn[0], gain_b1n[0], value=-lr)

    def _shortened(self, value: Tensor) -> bool:
        """Whether a state tensor follows `state_dtype`: matrices do, one scalar per matrix stays fp32."""
        return self.bf16 and value.is_floating_point() and value.ndim >= 3


class MatrixOptimizer(Optimizer):
    """Executes a `MatrixSubmission` on its matrices."""

    def __init__(self, rule: MatrixSubmission, members: Sequence[Named], *, lr: float, seed: int, stacked: bool | None = None) -> None:
        """`stacked`: whether to stack at all; None asks `ALONE`."""
        super().__init__([member.parameter for member in members], {"lr": lr})
        self.rule = rule
        self.t = 0
        self._in_terms = gives_terms(type(rule))
        self.part: Callable[[str], AbstractContextManager[Any]] = lambda name: contextlib.nullcontext()
        self.probe: Callable[[Probes, list[str]], None] | None = None
        together = not ALONE.get() if stacked is None else stacked
        self.stacks = [Stack(group, rule, seed) for group in stacks_of(members, together, rule.elementwise)]

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the runner owns the backward pass
        self.advance()
        self.apply(self.stacks)

    def advance(self) -> None:
        """Begins the next update."""
        self.t += 1

    @torch.no_grad()
    def apply(self, stacks: Sequence[Stack]) -> None:
        """The current update of these stacks."""
        lr = self.param_groups[0]["lr"]
        due = self.rule.refreshes(self.t)
        for stack in stacks:
            self._decay(stack, lr, "coupled", "before")
            G_bmn = stack.gradient()
            state = stack.working_state()
            if due:
                with self.part("refresh"):
                    self.rule.refresh(G_bmn, state, self.t)
            if self._in_terms and stack.direct:
                U, probes = self.rule.direction(G_bmn, state, self.t)
                stack.keep(state, self.t)
                stack.apply_terms(U, lr)
            elif self.rule.elementwise and len(stack.parameters) == 1:
                probes = {}
                self._update_in_pieces(G_bmn, state, stack, lr)
                stack.keep(state, self.t)
            else:
                U_bmn, probes = self._update(G_bmn, state, stack)
                stack.keep(state, self.t)
                stack.apply(U_bmn, lr)
            self._decay(stack, lr, "after")
            if self.probe is not None and probes:
                self.probe(probes, stack.names)

    def _update(self, G_bmn: Tensor, state: State, stack: Stack) -> tuple[Tensor, Probes]:
        shape = G_bmn.shape
        found: object = self.rule.update(G_bmn, state, self.t)
        match found:
            case (Tensor() as U_bmn, dict() as probes):
                pass
            case _:
                kinds = f"({', '.join(map(_kind, found))})" if isinstance(found, tuple) else _kind(found)
                raise ValueError(f"{type(self.rule).__name__}.update must return (U_bmn, probes), got {kinds}")
        if U_bmn.shape != shape:
            given, expected = tuple(U_bmn.shape), tuple(shape)
            raise ValueError(f"{type(self.rule).__name__}.update returned shape {given} for {stack.names[0]}, expected {expected}")
        return U_bmn, probes

    def _update_in_pieces(self, G_bmn: Tensor, state: State, stack: Stack, lr: float) -> None:
        """Update and apply a few rows at a time; what is kept of the matrix as a whole enters each piece as it was, and changes once."""
        whole = {key: value for key, value in state.items() if value.ndim < G_bmn.ndim}
        part: State = {}
        for rows in pieces.row_slices(stack.parameters[0]):
            part = {key: value.clone() if key in whole else value[:, rows] for key, value in state.items()}
            U_bmn, _ = self._update(G_bmn[:, rows], part, stack)
            stack.parameters[0][rows].add_(U_bmn[0], alpha=-lr)
        for key, value in whole.items():
            value.copy_(part[key])

    def _decay(self, stack: Stack, lr: float, *moments: str) -> None:
        decay = self.rule.weight_decay
        if not decay or self.rule.decay not in moments:
            return
        if self.rule.decay == "coupled":
            gradients = [parameter.grad for parameter in stack.parameters if parameter.grad is not None]
            torch._foreach_add_(gradients, stack.parameters, alpha=decay)
        elif self.rule.decay == "before":
            torch._foreach_mul_(stack.parameters, 1 - lr * decay)
        else:  # the same number, rounded as the family rounds it
            torch._foreach_add_(stack.parameters, stack.parameters, alpha=-lr * decay)

    def state_tensors(self) -> Iterator[Tensor]:
        for stack in self.stacks:
            yield from stack.state.values()

    def state_dict(self) -> dict[str, Any]:
        """Tensors only, by the name of each stack's first matrix; `torch.load(weights_only=True)` reads it."""
        return {"t": self.t, "stacks": {stack.names[0]: stack.state for stack in self.stacks}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.t = state_dict["t"]
        for stack in self.stacks:
            saved = state_dict["stacks"][stack.names[0]]
            # A seed stays on the CPU, everything else goes where the weights are.
            device = stack.parameters[0].device
            stack.state = {key: value if key == "seed_b" else value.to(device) for key, value in saved.items()}


def gives_terms(rule: type[MatrixSubmission]) -> bool:
    """Whether the rule defines `direction`, and no class below it overrides `update`."""
    if rule.direction is MatrixSubmission.direction:
        return False
    return next("direction" in cls.__dict__ for cls in rule.__mro__ if {"update", "direction"} & cls.__dict__.keys())


def stacks_of(members: Sequence[Named], stacked: bool, elementwise: bool = False) -> Iterator[list[Named]]:
    """Members in groups of one shape, dtype and device that are worth stacking; alone otherwise."""
    largest = STACK_ELEMENTS | ({"cpu": pieces.CPU_PIECE} if elementwise else {})
    groups: dict[Any, list[Named]] = defaultdict(list)
    for member in members:
        p = member.parameter
        together = stacked and (p.device.type != "cpu" or p.numel() <= CPU_STACKED_BELOW)
        groups[(p.shape, p.dtype, p.device) if together else member.name].append(member)
    for group in groups.values():
        p = group[0].parameter
        size = max(1, largest.get(p.device.type, 2**27) // max(p.numel(), 1))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def seed_of(seed: int, name: str) -> int:
    """A 62-bit seed from the trial's seed and a parameter's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2


def stochastic_bf16(X: Tensor, seed: int) -> Tensor:
    """X in bf16, rounded up or down with probabilities that make the mean exact."""
    generator = None if X.is_meta else torch.Generator(device=X.device).manual_seed(seed % 2**63)
    noise = torch.randint(0, 2**16, X.shape, generator=generator, device=X.device, dtype=torch.int32)
    return ((X.float().view(torch.int32) + noise) & -(2**16)).view(torch.float32).bfloat16()


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _check_state(rule: MatrixSubmission, state: State, count: int) -> None:
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim < 1 or value.shape[0] != count:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{type(rule).__name__}.init: state {key!r} is {given},"
                f" expected a tensor whose first axis is {count}, the matrices of the stack"
            )
