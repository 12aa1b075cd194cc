"""The shape of a LLaMA decoder, as plain data: importing it does not load torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from workloads.base import require, require_counts


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes and choices of one decoder; `llama.Llama` builds it."""

    hidden: int
    mlp: int
    """Width of the gated MLP."""
    layers: int
    heads: int
    vocab: int | None
    """Rows of the embedding; None follows the tokenizer of the data."""
    activation: Literal["silu", "gelu"] = "silu"
    """Of the MLP's gate: SwiGLU or GeGLU, with the same parameters."""
    norm: Literal["pre", "post"] = "pre"
    """Normalise what enters a block, or the sum that leaves it."""
    tied: bool = False
    """The head is the embedding."""
    init: Literal["llama", "fan_in"] = "llama"
    """`llama`: every matrix has std 0.02. `fan_in`: 1/sqrt(in), without which a hidden size of 128 sits on a long plateau."""
    eps: float = 1e-6
    """Of RMSNorm."""
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        require_counts(self, "hidden", "mlp", "layers", "heads", "vocab", within="model.")
        for name in ("eps", "rope_base"):
            require(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "a positive number")

    def check(self) -> None:
        """Stops if the heads do not share the hidden size, or have an odd one: positions rotate pairs.

        Raises:
            ValueError: naming the field, what it is and what was expected.
        """
        fine = self.hidden % self.heads == 0 and self.hidden // self.heads % 2 == 0
        require(fine, "model.heads", self.heads, f"a number that divides model.hidden = {self.hidden} into parts of an even size")

    def std(self, role: str) -> float:
        """Standard deviation of the initial weights of a matrix with this role."""
        if self.init == "llama":
            return 0.02
        if role == "embed":  # a tied embedding must give logits of order one as well
            return 1 / math.sqrt(self.hidden) if self.tied else 0.5
        if role == "head":
            return 0.02
        fan_in = math.sqrt(1 / (self.mlp if role == "mlp.down" else self.hidden))
        return fan_in / math.sqrt(2 * self.layers) if role in ("attn.o", "mlp.down") else fan_in
