"""Memory by part: measured in a trial, and predicted from shapes on the meta device without running anything."""

from __future__ import annotations

import resource
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from runner import composition, layerwise
from submissions import engine
from submissions.base import MatrixSubmission, Submission, Training

if TYPE_CHECKING:
    from workloads.base import Workload

PARTS = ("weights", "gradients", "state", "activations", "refresh")


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind these tensors, each counted once."""
    found = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def exact(tensors: Iterable[Tensor]) -> int:
    """Sum of the tensors' own bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def static(workload: Workload, training: Training) -> dict[str, int]:
    """Bytes of weights (buffers too), gradients and state of a live or a meta model."""
    model, optimizers = training.model, training.optimizers
    return {
        "weights": exact([*model.parameters(), *model.buffers()]),
        "gradients": _gradients(workload, model),
        "state": exact(tensor for optimizer in optimizers for tensor in engine.state_tensors(optimizer)) + exact(training.state.values()),
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
    """Bytes by part, and their `total`, of training `workload` with `submission`; exact for weights, gradients and state.

    Raises:
        ValueError: the submission does not fit the model, such as a rank above the short side of a matrix, or its setting.
    """
    if workload.layerwise:
        layerwise.check(workload, submission)
    model = composition.model_of(submission, workload, 0, "meta")
    alone = engine.ALONE.set(workload.layerwise)
    optimizers = submission.optimizers(model, 0)
    engine.ALONE.reset(alone)
    training = Training(model=model, seed=0, steps=workload.budget.steps, optimizers=optimizers)
    for optimizer in optimizers:
        create_state(optimizer)
    found = static(workload, training)
    if hasattr(submission, "predicted_state_bytes"):
        found["state"] = submission.predicted_state_bytes(model)
    found["activations"] = activations(workload, model, workload.example("meta"))
    found["refresh"] = refresh_transient(submission, optimizers)
    return {**found, "total": sum(found.values())}


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


def refresh_transient(submission: Submission, optimizers: list[Optimizer]) -> int:
    """Bytes that one refresh needs for a moment: the fp32 copy of the largest stack, its Gram matrix and eigenvectors."""
    if not isinstance(submission, MatrixSubmission) or not hasattr(submission, "gap"):
        return 0
    return max((_refresh_bytes(stack) for stack in _stacks(optimizers)), default=0)


def _refresh_bytes(stack: engine.Stack) -> int:
    shape = stack.parameters[0].shape
    short, long = min(shape), max(shape)
    return 4 * len(stack.parameters) * (short * long + 3 * short * short)


def _stacks(optimizers: list[Optimizer]) -> Iterator[engine.Stack]:
    for optimizer in optimizers:
        if isinstance(optimizer, engine.MatrixOptimizer):
            yield from optimizer.stacks


def peak(device: torch.device) -> int:
    """Peak bytes so far: of the allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
