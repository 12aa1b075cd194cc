"""Optimizer state divided over the ranks of a trial: each keeps and updates its share of the matrices, then sends their weights.

Stage 1 of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) for what the engine executes; every rank still has all gradients, and the
state of the dense part (embeddings, norms), which is small beside.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from runner.devices import Group
from runner.trial import Trial
from submissions.base import Submission
from submissions.engine import MatrixOptimizer, Stack
from workloads.base import Workload


def check(workload: Workload, submission: Submission, optimizers: list[Optimizer], trial: Trial) -> None:
    """Whether the state may be divided.

    Raises:
        ValueError: something needs all of it on one rank, or there is nothing to divide.
    """
    told = f"shard_state = true: {type(submission).__name__}"
    if not any(_divisible(optimizer) for optimizer in optimizers):
        raise ValueError(f"{told} has no optimizer that keeps its state by matrix; set it to false")
    for hook in ("before_step", "train_step", "after_step"):
        if getattr(type(submission), hook) is not getattr(Submission, hook):
            raise ValueError(f"{told} does its own work in {hook}(), which may need all state; set it to false")
    if workload.layerwise:
        raise ValueError("shard_state = true with layerwise = true: choose one; the other must be false")
    if trial.probes_every is not None:
        raise ValueError(
            "shard_state = true with probes_every: no rank sees all matrices; record probes in a trial that does not divide them"
        )


def divide(optimizers: list[Optimizer], group: Group) -> list[tuple[Tensor, int]]:
    """Leaves this rank its share of each optimizer's stacks, the largest dealt out first; returns the owner of each weight."""
    owners: list[tuple[Tensor, int]] = []
    dealt = [0] * group.world
    for optimizer in filter(_divisible, optimizers):
        assert isinstance(optimizer, MatrixOptimizer)
        mine = []
        for stack in sorted(optimizer.stacks, key=_bytes, reverse=True):
            owner = dealt.index(min(dealt))
            dealt[owner] += _bytes(stack)
            owners += [(parameter, owner) for parameter in stack.parameters]
            if owner == group.rank:
                mine.append(stack)
        optimizer.stacks = mine
    return owners


@torch.no_grad()
def send(owners: list[tuple[Tensor, int]]) -> None:
    """Brings every weight up to date on all ranks."""
    for parameter, owner in owners:
        dist.broadcast(parameter.detach(), src=owner)


def states(optimizers: list[Optimizer], group: Group) -> list[dict[str, Any]]:
    """The state of all optimizers on rank 0, put together; this rank's share on the others."""
    own = [optimizer.state_dict() for optimizer in optimizers]
    shares = [_on_cpu(state["stacks"]) if _divisible(optimizer) else {} for optimizer, state in zip(optimizers, own, strict=True)]
    found: list[Any] | None = None if group.rank else [None] * group.world
    dist.gather_object(shares, found)
    for state, *others in zip(own, *(found or []), strict=True):
        for share in others:
            if share:
                state["stacks"].update(share)
    return own


def _divisible(optimizer: Optimizer) -> bool:
    return type(optimizer) is MatrixOptimizer  # one derived from it may move state between its stacks


def _bytes(stack: Stack) -> int:
    return sum(value.numel() * value.element_size() for value in stack.state.values())


def _on_cpu(stacks: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {name: {key: value.cpu() for key, value in state.items()} for name, state in stacks.items()}
