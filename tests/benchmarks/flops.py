"""What a training step takes of a device: the model's floating-point operations, and the fastest matrix product measured there."""

from __future__ import annotations

import time

import torch
from torch import nn

from workloads.pretraining import PretrainingWorkload

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product is the peak: a fraction of a second on one core, milliseconds on a large GPU."""


def per_token(workload: PretrainingWorkload) -> int:
    """Operations of forward and backward for one token: 6 for each weight of a matrix that multiplies, the head's among them, and
    6 x layers x length x hidden for the causal half of attention. The embedding's look-up and recomputed activations count nothing.
    """
    shape = workload.architecture()
    model = workload.build(0, "meta")
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return 6 * weights + 6 * shape.layers * workload.batch.length * shape.hidden


def dtype_of(workload: PretrainingWorkload) -> torch.dtype:
    """What the workload's matrix products are computed in."""
    return torch.bfloat16 if "bf16" in (workload.precision.weights, workload.precision.autocast) else torch.float32


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product on random data, the best of a few."""
    side = SIDE[torch.device(device).type]
    A, B = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        began = now(device)
        A @ B
        best = min(best, now(device) - began)
    return float(2 * side**3 / best)


def now(device: str) -> float:
    """The clock on the wall, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
