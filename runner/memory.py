"""Memory by part: measured in a trial, and predicted from shapes on the meta device without running anything."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from runner import allocation, composition, layerwise, status
from submissions import engine, holdings
from submissions.base import Submission, Training

if TYPE_CHECKING:
    from workloads.base import Workload


class Unpredictable(RuntimeError):
    """A submission does something that needs values, which tensors without memory do not have."""


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind these tensors, each counted once."""
    found = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def exact(tensors: Iterable[Tensor]) -> int:
    """Sum of the tensors' own bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept(tensors: Iterable[Tensor]) -> int:
    """Sum of the tensors' own bytes, where some are views of one storage no more than it has."""
    views: dict[int, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        views[tensor.untyped_storage()._cdata].append(tensor)
    return sum(min(exact(group), size(group)) for group in views.values())


def static(workload: Workload, training: Training) -> dict[str, int]:
    """Bytes of weights (buffers too), gradients and state of a live or a meta model."""
    model = training.model
    weights = [*model.parameters(), *model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {
        "weights": exact(weights),
        "gradients": _gradients(workload, model),
        "state": kept(holdings.tensors_in([training.optimizers, training.state], but=[*weights, *gradients])),
    }


def _gradients(workload: Workload, model: nn.Module) -> int:
    """All; layerwise those that are alive at a time: one, or the ones that a compiled module hands out together."""
    found = {parameter: exact([parameter]) for parameter in model.parameters() if parameter.requires_grad}
    if not workload.layerwise:
        return sum(found.values())
    together = workload.compilable(model) if workload.compile else ()
    return max([*found.values(), *(sum(found.get(parameter, 0) for parameter in module.parameters()) for module in together)])


class _Kept:
    """A tensor that waits for the backward pass, for as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def activations(workload: Workload, model: nn.Module, batch: Any) -> int:
    """Bytes that the forward pass of one micro-batch keeps for the backward pass; parameters are not among them."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    waiting: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        waiting.add(kept)
        return kept

    with saved_tensors_hooks(keep, lambda kept: kept.tensor):
        loss, _ = workload.loss(model, batch)
    total = size(kept.tensor for kept in waiting if kept.tensor.untyped_storage()._cdata not in own)
    del loss
    return total


def predict(submission: Submission, workload: Workload) -> dict[str, int]:
    """Bytes by part of training `workload` with `submission`, uncompiled; exact for weights, gradients and state.

    `peak` is the fullest moment of a step, and `total` too; where a step cannot be followed, `total` is the sum of the parts.

    Raises:
        ValueError: the submission does not fit the model, such as a rank above the short side of a matrix, or its setting.
        Unpredictable: it cannot be built without values.
    """
    workload = replace(workload, compile=False)
    training = prepared(submission, workload)
    found = static(workload, training)
    with _without_values(), allocation.fast_attention():
        found["activations"] = activations(workload, training.model, workload.example("meta"))
    found["total"] = sum(found.values())
    with contextlib.suppress(Unpredictable), _without_values():  # a step that reads values cannot be followed; the parts are known
        found["total"] = found["peak"] = allocation.peak(submission, workload, training)
    return found


def said(found: Mapping[str, float]) -> str:
    """The predicted total for a table; a sum of parts says so."""
    return status.megabytes(float(found["total"])) + ("" if "peak" in found or math.isnan(found["total"]) else " (sum)")


def prepared(submission: Submission, workload: Workload, device: str = "meta") -> Training:
    """Model, optimizers and their state as they are before the first step.

    Raises:
        ValueError: the submission does not fit the model or the setting.
        Unpredictable: it cannot be built without values.
    """
    if workload.layerwise:
        layerwise.check(workload, submission)
    with _without_values():
        model = composition.model_of(submission, workload, 0, device)
        optimizers = composition.optimizers_of(submission, workload, model, 0)
        training = Training(model=model, seed=0, steps=workload.budget.steps, optimizers=optimizers)
        submission.begin(training)
        for optimizer in optimizers:
            create_state(optimizer)
    return training


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Gives what torch raises where a value is read from the meta device a name of its own.

    Raises:
        Unpredictable: instead of a RuntimeError (`.item()`, a condition) or a TypeError (`.numpy()`).
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        raise Unpredictable(str(error)) from error


def create_state(optimizer: Optimizer) -> None:
    """Makes a lazy torch optimizer allocate its state on the meta device, by one step with meta gradients."""
    if isinstance(optimizer, engine.MatrixOptimizer):
        return
    for group in optimizer.param_groups:
        if "fused" in group:  # the fused kernels have no meta implementation; the state is the same without them
            group["fused"] = False
            group["foreach"] = False
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def peak(device: torch.device) -> int:
    """Peak bytes so far: of the allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
