"""The global batches of a trial, by step; on a GPU the next one is read and copied while the device works on the present one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclass
class GlobalBatch:
    """All micro-batches of one step on this device, and the loss-bearing tokens of the whole step."""

    micro: list[Any]
    tokens: int


Ready = tuple[GlobalBatch, torch.cuda.Event | None]
"""A batch, and the end of its copy to the device."""


class Feed:
    """Reads one batch ahead in a thread, which copies on a stream of its own; what the batch of a step is does not depend on it.

    A CPU has nothing to overlap: there each batch is read when it is asked for.
    """

    def __init__(self, read: Callable[[int], GlobalBatch], device: torch.device, *, last: int, ahead: bool | None = None) -> None:
        """`read` gives the batch of a step (from 1), `last` is the final step; `ahead` None reads ahead on a GPU alone."""
        self._read, self._last = read, last
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._thread = ThreadPoolExecutor(1, "feed") if (on_gpu if ahead is None else ahead) else None
        self._next: tuple[int, Future[Ready]] | None = None

    def batch(self, step: int) -> GlobalBatch:
        """The batch of a step, for use on the current stream."""
        if self._thread is None:
            return self._read(step)
        expected = self._next is not None and self._next[0] == step
        future = self._next[1] if self._next is not None and expected else self._thread.submit(self._copied, step)
        self._next = (step + 1, self._thread.submit(self._copied, step + 1)) if step < self._last else None
        batch, copied = future.result()
        if copied is not None:
            current = torch.cuda.current_stream()
            current.wait_event(copied)
            for value in tree_leaves(batch.micro):
                if isinstance(value, Tensor):
                    value.record_stream(current)  # its memory is not used again before this stream has done with it
        return batch

    def close(self) -> None:
        """Ends the thread; a batch that nobody will ask for is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _copied(self, step: int) -> Ready:
        if self._stream is None:
            return self._read(step), None
        with torch.cuda.stream(self._stream):
            return self._read(step), self._stream.record_event()
