"""8-bit Adam: AdamW whose moments are stored in eight bits.

Dettmers et al. 2021, arXiv 2110.02861; released package bitsandbytes 0.50.2.

    m, v <- the values of their codes;  AdamW's step in fp32
    codes <- the nearest of 256 dynamic values, in units of the largest magnitude in each block of 256 entries

Memory: two bytes per entry and eight per block, mn/2 + 2 ceil(mn/256); a tensor below `min_8bit_size` entries keeps 2mn. Defaults: the
package's. Written here, not called: on a CPU the package's step takes several times as long. Trap: second moments below 1e-7 of their
block's largest round to zero, and their entries take steps that only eps bounds; the paper keeps embeddings in fp32 (leave `embed` out
of `matrices`).
Shapes: b stacked matrices as they are stored (out x in), or one vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense, linalg, quantisation
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, State, require

SIGNED = {"m": True, "v": False}


@dataclass(frozen=True, kw_only=True)
class Adam8bit(MatrixSubmission):
    """AdamW with block-wise quantised state."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """Decoupled decay, relative to the learning rate."""
    min_8bit_size: int = 4096
    """Entries from which a tensor's state is quantised."""
    matrices: tuple[str, ...] = (*MATRIX_ROLES, "embed", "head", "norm")
    """Roles whose state is quantised; Adam in `state_dtype` has the rest."""

    paper: ClassVar[str] = "Dettmers et al. 2021, arXiv 2110.02861"
    kind: ClassVar[Literal["quantised"]] = "quantised"
    memory: ClassVar[str] = "m*n/2 + 2*ceil(m*n/256) if m*n >= min_8bit_size else 2*m*n"
    decay: ClassVar[Literal["before"]] = "before"
    wide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.min_8bit_size >= 0, "min_8bit_size", self.min_8bit_size, "zero or more")

    def init(self, W_bmn: Tensor) -> State:
        size = W_bmn[0].numel()
        if size < self.min_8bit_size:
            return {key: W_bmn.new_zeros(W_bmn.shape, dtype=linalg.arithmetic(W_bmn.dtype)) for key in SIGNED}
        blocks = math.ceil(size / 256)
        codes = {key: W_bmn.new_zeros(W_bmn.shape, dtype=torch.uint8) for key in SIGNED}
        return codes | {f"{key}_scale": W_bmn.new_zeros(len(W_bmn), blocks, dtype=torch.float32) for key in SIGNED}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        quantised = "m_scale" in state
        moments = {key: state[key] for key in SIGNED}
        if quantised:
            moments = {key: quantisation.dequantise(state[key], state[f"{key}_scale"], SIGNED[key], like=G_bmn) for key in SIGNED}
        psi_bmn = linalg.adam(G_bmn, moments["m"], moments["v"], self.betas, self.eps * math.sqrt(1 - self.betas[1] ** t))
        if quantised:
            for key, signed in SIGNED.items():
                state[key], state[f"{key}_scale"] = quantisation.quantise(moments[key], signed)
        return psi_bmn.mul_(linalg.bias_correction(t, self.betas)), {}

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return dense.beside(self, model, seed, vectors=True)
