"""The peak memory of a training step, followed allocation by allocation: live on a CPU, or from shapes on the meta device.

Every storage that an operation makes counts from its birth until the last reference to it is gone, so that gradients, activations,
logits, recomputed layers and the temporaries of update and refresh are added up as they overlap. What an allocator adds (fragments,
library workspaces) is not in it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner import layerwise
from runner.devices import Group
from submissions import holdings, linalg
from submissions.base import Submission, Training
from submissions.engine import MatrixOptimizer

if TYPE_CHECKING:
    from workloads.base import Workload


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # likewise
    """Bytes of live storages on a type of device, and the most there were at once."""

    def __init__(self, held: Iterable[Tensor] = (), device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.device = device
        self.live = self.peak = 0
        self._known: set[int] = set()
        for tensor in held:
            self.hold(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for value in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(value, Tensor):
                self.hold(value)
        return out

    def hold(self, tensor: Tensor) -> None:
        """Counts the storage behind a tensor until it is freed."""
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            weakref.finalize(storage, self._release, key, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextlib.contextmanager
def fast_attention() -> Iterator[None]:
    """Gives attention on the meta device the kernel that devices have: there torch would form the t x t matrix that no fast one keeps.

    A function mode would not do: it is off inside the backward pass, where layers are computed again.
    """

    def attention(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, **_: Any) -> Any:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=is_causal)[0]

    plain = torch.nn.functional.scaled_dot_product_attention
    setattr(torch.nn.functional, "scaled_dot_product_attention", attention)  # noqa: B010  # not an attribute that types know as writable
    try:
        yield
    finally:
        setattr(torch.nn.functional, "scaled_dot_product_attention", plain)  # noqa: B010


def peak(submission: Submission, workload: Workload, training: Training) -> int:
    """Bytes at the fullest moment of the first update, with its refresh.

    Args:
        training: not yet begun; it is of no use afterwards.

    Raises:
        RuntimeError, NotImplementedError: the step reads values, and the model is on the meta device.
    """
    model, batch = training.model, workload.example(next(training.model.parameters()).device)
    # torch's own optimizers are left out: their state is there, and the fused kernels need nothing else.
    own = [optimizer for optimizer in training.optimizers if isinstance(optimizer, MatrixOptimizer)]
    if workload.layerwise:
        layerwise.install(list(own), Group(), lambda name: contextlib.nullcontext())
        layerwise.begin(list(own))
        _free_at_once(model)
    elif workload.batch.micro not in (None, workload.batch.sequences):
        for parameter in model.parameters():  # a later micro-batch finds the gradients of the first one
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    def backward(batch: Any) -> Tensor:
        loss, tokens = workload.loss(model, batch)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()

    training.t, training.backward = 1, backward
    linalg.forget_constants()
    ledger = Ledger(_held(training), batch[0].device.type)
    with ledger, fast_attention() if batch[0].is_meta else contextlib.nullcontext():
        submission.before_step(training)
        submission.train_step(training, batch)
        if not workload.layerwise:
            for optimizer in own:
                optimizer.step()
    return ledger.peak


def _held(training: Training) -> Iterator[Tensor]:
    """What is there before the step."""
    yield from (*training.model.parameters(), *training.model.buffers())
    yield from (parameter.grad for parameter in training.model.parameters() if parameter.grad is not None)
    yield from holdings.tensors_in([training.optimizers, training.state])


def _free_at_once(model: nn.Module) -> None:
    """What torch's optimizers do to gradients when updates run inside the backward pass."""

    def free(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(free)  # type: ignore[no-untyped-call]  # likewise
