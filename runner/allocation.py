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
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner import composition, layerwise, memory
from runner.devices import Group
from submissions import engine
from submissions.base import Submission

if TYPE_CHECKING:
    from workloads.base import Workload

PASSES = 2
"""Micro-batches that are followed: the second finds the gradients of the first, as all later ones do."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # likewise
    """Bytes of live storages, and the most there were at once."""

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.live = self.peak = 0
        self._known: set[int] = set()
        for tensor in held:
            self.hold(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.hold(value)
        return out

    def hold(self, tensor: Tensor) -> None:
        """Counts the storage behind a tensor until it is freed."""
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
def _fast_attention() -> Iterator[None]:
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


def peak(submission: Submission, workload: Workload, device: str = "meta") -> int:
    """Bytes at the fullest moment of the first update, with its refresh.

    Raises:
        ValueError: the submission does its own work in a step, which only a trial can follow.
    """
    for hook in ("before_step", "train_step"):
        if getattr(type(submission), hook) is not getattr(Submission, hook):
            raise ValueError(f"{type(submission).__name__} does its own work in {hook}(): its peak can only be measured, in a trial")
    if workload.layerwise:
        layerwise.check(workload, submission)
    model = composition.model_of(submission, workload, 0, device)
    alone = engine.ALONE.set(workload.layerwise)
    optimizers = submission.optimizers(model, 0)
    engine.ALONE.reset(alone)
    for optimizer in optimizers:
        memory.create_state(optimizer)
    state = (tensor for optimizer in optimizers for tensor in engine.state_tensors(optimizer))
    ledger = Ledger([*model.parameters(), *model.buffers(), *state])
    _step(model, optimizers, workload, workload.example(device), ledger)
    return ledger.peak


def _step(model: nn.Module, optimizers: list[Optimizer], workload: Workload, batch: Any, ledger: Ledger) -> None:
    """One update. torch's own optimizers are left out: their state is there, and the fused kernels need nothing else."""
    own = [optimizer for optimizer in optimizers if isinstance(optimizer, engine.MatrixOptimizer)]
    passes = min(PASSES, workload.batch.sequences // (workload.batch.micro or workload.batch.sequences))
    if workload.layerwise:
        layerwise.install(list(own), Group(), lambda name: contextlib.nullcontext())
        layerwise.begin(list(own))
        _free_at_once(model)
    with ledger, _fast_attention() if batch[0].is_meta else contextlib.nullcontext():
        for _ in range(passes):
            loss, tokens = workload.loss(model, batch)
            (loss / tokens).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            del loss
        if not workload.layerwise:
            for optimizer in own:
                optimizer.step()


def _free_at_once(model: nn.Module) -> None:
    """What torch's optimizers do to gradients when updates run inside the backward pass."""

    def free(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(free)  # type: ignore[no-untyped-call]  # likewise
