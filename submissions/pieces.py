"""How much of a tensor a CPU updates at a time, where no entry's update depends on another's.

Fresh memory beyond what the allocator keeps is paged in anew at each use, which costs several times the arithmetic; pieces whose
temporaries stay in the cache are spared that. Other devices take everything at once, which saves launches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import EllipsisType

from torch import Tensor

CPU_PIECE = 2**17
"""Elements of a piece."""


def row_slices(W: Tensor) -> Iterator[slice | EllipsisType]:
    """Indices of rows that a CPU's cache holds; of everything at once if it is small, and on other devices."""
    if W.device.type != "cpu" or W.numel() <= CPU_PIECE:
        yield ...
        return
    size = max(1, CPU_PIECE * len(W) // W.numel())
    yield from (slice(start, start + size) for start in range(0, len(W), size))


def batches(*lists: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Lists of tensors of equal shapes, a few rows or small tensors at a time on a CPU, as they are on other devices."""
    batch: list[list[Tensor]] = []
    for tensors in zip(*lists, strict=True):
        for rows in row_slices(tensors[0]):
            batch.append([tensor[rows] for tensor in tensors])
            if tensors[0].device.type == "cpu" and sum(part[0].numel() for part in batch) >= CPU_PIECE:
                yield [list(part) for part in zip(*batch, strict=True)]
                batch = []
    if batch:
        yield [list(part) for part in zip(*batch, strict=True)]
