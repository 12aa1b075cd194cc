"""One trial on several devices: data-parallel, the same global batch, every rank with the same gradient and so the same update.

Gradients are summed over ranks before the update, which each rank then computes bit-equally; projected states stay identical without
being sent. Only rank 0 writes. With one process every method here does nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from runner.record import Line

BUCKET = 2**23
"""Elements that are summed over ranks at a time: large enough for bandwidth, small enough as a temporary."""


@dataclass(frozen=True)
class Group:
    """The processes of one trial."""

    rank: int = 0
    world: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients of all ranks, in buckets of one dtype."""
        if self.world == 1:
            return
        buckets: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is not None:
                bucket = buckets[parameter.grad.dtype]
                bucket.append(parameter.grad)
                if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                    _sum_bucket(buckets.pop(parameter.grad.dtype))
        for bucket in buckets.values():
            _sum_bucket(bucket)

    def agree(self, *values: float) -> tuple[float, ...]:
        """Rank 0's values, on every rank: what depends on a clock or a signal must be decided once."""
        if self.world == 1:
            return values
        shared: list[Any] = [values]
        dist.broadcast_object_list(shared, src=0)
        return tuple(shared[0])

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return bool(self.gather(flag).count(True)) if self.world > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found


class Silent:
    """Takes the place of the record's writer on all ranks but the first."""

    def write(self, *lines: Line) -> None:
        """Nothing: rank 0 writes."""

    def close(self) -> None:
        """Nothing: rank 0 writes."""


def join(device: str) -> tuple[Group, str]:
    """The group that torchrun started this process in (or a group of one), and this rank's device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group(), device
    cuda = device.startswith("cuda")
    place = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else device
    if cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Group(dist.get_rank(), world), place


def leave(group: Group) -> None:
    if group.world > 1:
        dist.destroy_process_group()


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = parameters_to_vector(gradients)
    dist.all_reduce(flat)
    vector_to_parameters(flat, gradients)
