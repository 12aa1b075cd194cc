"""Updates inside the backward pass: each parameter moves as soon as its gradient is there, and the gradient is freed at once.

Saves the memory of all gradients but the largest. GaLore's per-layer variant does the same; it doubles its periods because its scheduler is
called twice, ours is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from runner.devices import Group
from submissions.base import Submission
from submissions.dense import ByParameter
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


def check_optimizers(optimizers: Sequence[Optimizer]) -> None:
    """Whether these optimizers, made while `engine.ALONE` is set, can update each parameter by itself.

    Raises:
        ValueError: the step of one is only known to be right for all its parameters at once.
    """
    for optimizer in optimizers:
        if why := _needs_all(optimizer):
            raise ValueError(f"layerwise = true: {type(optimizer).__name__} {why}, or set it to false")


def _needs_all(optimizer: Optimizer) -> str | None:
    """What ties the parameters of an optimizer together, and the remedy; None if nothing does."""
    step = inspect.unwrap(type(optimizer).step)  # torch wraps a step to profile it
    if isinstance(optimizer, MatrixOptimizer):
        if step is not inspect.unwrap(MatrixOptimizer.step):
            return "does its own work in step(), where all matrices are updated; do it in advance(), once, and in apply(stacks), for these"
        if any(len(stack.parameters) > 1 for stack in optimizer.stacks):
            return "stacks matrices that get their gradients one by one; leave `stacked` to the engine"
    elif isinstance(optimizer, ByParameter):
        if step is not inspect.unwrap(ByParameter.step):
            return "does its own work in step(), for all parameters; do it in advance(), once, and in apply(), where there is a gradient"
    elif isinstance(optimizer, torch.optim.LBFGS) or not step.__module__.startswith("torch.optim."):
        return "has a step() that may count its calls or need all gradients; derive it from submissions.dense.ByParameter"
    return None


def install(optimizers: list[Optimizer], group: Group, part: Callable[[str], AbstractContextManager[Any]]) -> None:
    """Hooks every parameter; `begin` must be called before each backward pass, and `step` of no optimizer."""
    for optimizer in optimizers:
        for param_group in optimizer.param_groups:
            for parameter in param_group["params"]:
                _hook(parameter, optimizer, group, part)


def begin(optimizers: list[Optimizer]) -> None:
    """Counts the coming update."""
    for optimizer in optimizers:
        if isinstance(optimizer, MatrixOptimizer | ByParameter):
            optimizer.advance()


def _hook(parameter: Tensor, optimizer: Optimizer, group: Group, part: Callable[[str], AbstractContextManager[Any]]) -> None:
    def update(ready: Tensor) -> None:
        with part("update"):
            group.sum_gradients([ready])
            if isinstance(optimizer, MatrixOptimizer):  # looked up at each update: a rule may make its stacks anew
                optimizer.apply([stack for stack in optimizer.stacks if stack.parameters[0] is ready])
            elif isinstance(optimizer, ByParameter):
                optimizer.apply()
            else:
                optimizer.step()  # torch's own pass over parameters without a gradient
            ready.grad = None

    parameter.register_post_accumulate_grad_hook(update)  # type: ignore[no-untyped-call]  # torch leaves it untyped
