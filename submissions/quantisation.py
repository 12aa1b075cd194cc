"""Values in eight bits or fewer, in blocks of consecutive entries: by the dynamic code of 8-bit optimizers, or on even grids.

Shapes: b stacked matrices or vectors, whose blocks never cross from one to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from submissions import linalg


@linalg.constant
def dynamic_code(signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """The 256 values in [-1, 1], ascending, of the dynamic 8-bit data type: an exponent in powers of ten, linear fractions between.

    Source: Dettmers 2015, arXiv 1511.04561; Dettmers et al. 2022, arXiv 2110.02861 (signed for m, unsigned for v).
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, (2**exponent if signed else 2 ** (exponent + 1)) + 1, dtype=torch.float64)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        values += [sign * middle for middle in middles for sign in ((1, -1) if signed else (1,))]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def quantise(X: Tensor, signed: bool, block: int = 256) -> tuple[Tensor, Tensor]:
    """Codes (uint8, X's shape) and scales (b x blocks) of each matrix in blocks of consecutive entries; inverse of `dequantise`."""
    bounds, first = _between(signed, X.device)
    size = X[0].numel()
    flat = torch.nn.functional.pad(X.flatten(1).float(), (0, -size % block)).view(len(X), -1, block)
    scales = flat.abs().amax(-1)
    unit = (flat / scales.clamp_min(1e-38)[..., None]).flatten()
    # The upper 16 bits of a float leave two neighbouring codes to choose from: several times faster than a search.
    below = first.index_select(0, (unit.view(torch.int32) >> 16) & 0xFFFF)
    nearest = (below + (unit > bounds.index_select(0, below))).to(torch.uint8)
    return nearest.view(len(X), -1)[:, :size].reshape(X.shape), scales


def dequantise(codes: Tensor, scales: Tensor, signed: bool, like: Tensor, block: int = 256) -> Tensor:
    """X from its codes and scales, in the dtype of `like`."""
    size = codes[0].numel()
    values = dynamic_code(signed, codes.device).index_select(0, codes.flatten().int()).view(len(codes), -1)
    spread = torch.nn.functional.pad(values, (0, -size % block)).view(len(codes), -1, block) * scales[..., None]
    X: Tensor = spread.flatten(1)[:, :size].reshape(codes.shape).to(like.dtype)
    return X


@linalg.constant
def _between(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The bounds between neighbouring codes, and the code of the least float with given upper 16 bits."""
    code = dynamic_code(signed)
    bounds = torch.cat([(code[1:] + code[:-1]) / 2, torch.tensor([torch.inf])])
    prefixes = torch.arange(2**16, dtype=torch.int32) << 16
    least = torch.where(prefixes < 0, prefixes | 0xFFFF, prefixes).view(torch.float32).nan_to_num()
    return bounds.to(device), torch.bucketize(least, bounds[:-1], out_int32=True).to(device)


def on_grid(X: Tensor, bits: int, block: int, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (X's shape, 0 to 2^bits - 1), steps and least values (b x blocks): blocks of entries on even grids from least to largest.

    `noise` in [0, 1), X's shape, is added before rounding down: 0.5 rounds to nearest, uniform draws make the rounding unbiased.
    """
    size = X[0].numel()
    flat = torch.cat([X.flatten(1), X.flatten(1)[:, -1:].expand(-1, -size % block)], dim=1).view(len(X), -1, block)
    low, high = flat.aminmax(dim=-1)
    step = (high - low) / (2**bits - 1)
    levels = ((flat - low[..., None]) / step.clamp_min(1e-38)[..., None]).flatten(1)[:, :size].reshape(X.shape)
    return (levels + noise).floor_().clamp_(0, 2**bits - 1).to(torch.uint8), step, low


def off_grid(codes: Tensor, step: Tensor, low: Tensor, block: int) -> Tensor:
    """X from the codes, steps and least values of `on_grid`."""
    size = codes[0].numel()
    steps, lows = (value.repeat_interleave(block, dim=1)[:, :size] for value in (step, low))
    X: Tensor = torch.addcmul(lows, codes.flatten(1).to(low.dtype), steps).view(codes.shape)
    return X
