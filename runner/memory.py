"""Memory by part: measured in a trial, and predicted from shapes on the meta device without running anything."""

from __future__ import annotations

import resource
import sys
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
    """Bytes of weights (buffers too), gradients and state of a live or a meta model; layerwise, one gradient is alive at a time."""
    model, optimizers = training.model, training.optimizers
    parameters = list(model.parameters())
    gradients = [exact([parameter]) for parameter in parameters if parameter.requires_grad]
    return {
        "weights": exact([*parameters, *model.buffers()]),
        "gradients": max(gradients) if workload.layerwise else sum(gradients),
        "state": exact(tensor for optimizer in optimizers for tensor in engine.state_tensors(optimizer)) + exact(training.state.values()),
    }


def activations(workload: Workload, model: nn.Module, batch: Any) -> int:
    """Bytes that the forward pass of one micro-batch keeps for the backward pass; parameters are not among them."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = workload.loss(model, batch)
    total = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
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
