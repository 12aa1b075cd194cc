"""Updates inside the backward pass: each parameter moves as soon as its gradient is there, and the gradient is freed at once.

Saves the memory of all gradients but the largest. GaLore's per-layer variant does the same; it doubles its periods because its scheduler is
called twice, ours is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from runner.devices import Group
from submissions.base import Submission
from submissions.dense import FamilyAdam
from submissions.engine import MatrixOptimizer
from workloads.base import Workload


def check(workload: Workload, submission: Submission) -> None:
    """Whether updates may run inside the backward pass.

    Raises:
        ValueError: accumulation or clipping needs all gradients at once.
    """
    if workload.batch.micro not in (None, workload.batch.sequences):
        raise ValueError(
            f"layerwise = true with {workload.batch.micro} of {workload.batch.sequences} sequences at a time:"
            " gradients cannot be accumulated when each is freed at once; set batch.micro=null"
        )
    if submission.clip is not None:
        raise ValueError(f"layerwise = true with clip = {submission.clip:g}: a global norm needs all gradients at once; set clip=null")

    for hook in ("before_step", "train_step", "after_step"):
        if getattr(type(submission), hook) is not getattr(Submission, hook):
            raise ValueError(
                f"layerwise = true: {type(submission).__name__} does its own work in {hook}(), which expects all gradients; set it to false"
            )


def install(optimizers: list[Optimizer], group: Group, part: Callable[[str], AbstractContextManager[Any]]) -> None:
    """Hooks every parameter; `begin` must be called before each backward pass, and `step` of no optimizer."""
    for optimizer in optimizers:
        if isinstance(optimizer, MatrixOptimizer):
            for stack in optimizer.stacks:
                (parameter,) = stack.parameters  # the engine makes no larger stack while `ALONE` is set
                _hook(parameter, functools.partial(optimizer.apply, [stack]), group, part)
        else:
            act = optimizer.apply if isinstance(optimizer, FamilyAdam) else optimizer.step
            for param_group in optimizer.param_groups:
                for parameter in param_group["params"]:
                    _hook(parameter, act, group, part)  # torch's optimizers skip parameters without a gradient


def begin(optimizers: list[Optimizer]) -> None:
    """Counts the coming update."""
    for optimizer in optimizers:
        if isinstance(optimizer, MatrixOptimizer | FamilyAdam):
            optimizer.advance()


def _hook(parameter: Tensor, act: Callable[[], object], group: Group, part: Callable[[str], AbstractContextManager[Any]]) -> None:
    def update(ready: Tensor) -> None:
        with part("update"):
            group.sum_gradients([ready])
            act()
            ready.grad = None

    parameter.register_post_accumulate_grad_hook(update)  # type: ignore[no-untyped-call]  # torch leaves it untyped
