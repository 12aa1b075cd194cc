"""Bottleneck adapters: a small two-layer network after a frozen matrix (serial) or beside it (parallel).

Serial: Houlsby et al. 2019, arXiv 1902.00751. Parallel: He et al. 2022, arXiv 2110.04366. Both as LLM-Adapters compares them
(Hu et al. 2023, arXiv 2304.01933), around a linear module each:

    serial    z = W x;  y = z + s B f(A z)          A k x out, B out x k
    parallel  y = W x + s B f(A x)                  A k x in,  B out x k

A Kaiming-uniform, B zero, so that the start is the base model. Memory: parallel 2k(m+n) + 2; serial 4k out + 2, where out is the
short side of the default matrices (attn.o, mlp.down: the ends of the two blocks). Defaults: LLM-Adapters' k 256 and tanh; rates as
its LoRA. Unlike LoRA's product neither can be merged into W, so they cost time at inference. Rates between these and LoRA are not
comparable: k counts here, r there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions import adapters
from submissions.adapters import AdapterSubmission
from submissions.base import Training, require

Activation = Literal["tanh", "relu", "gelu", "silu"]


@dataclass(frozen=True, kw_only=True)
class Bottleneck(AdapterSubmission):
    """Serial or parallel bottleneck adapters."""

    placement: Literal["serial", "parallel"] = "serial"
    """On the output of the matrix, or beside the matrix on its input."""
    lr: float = 3e-4
    """Peak learning rate."""
    matrices: tuple[str, ...] = ("attn.o", "mlp.down")
    """Roles of the matrices that get adapters."""
    rest: Literal["train", "freeze"] = "freeze"
    """What becomes of embedding, head and norms."""
    size: int = 256
    """k: width of the bottleneck."""
    activation: Activation = "tanh"
    """f."""
    scale: float = 1.0
    """s."""
    dropout: float = 0.0
    """Probability that an input of the adapter is dropped in training."""

    paper: ClassVar[str] = "Houlsby et al. 2019, arXiv 1902.00751; He et al. 2022, arXiv 2110.04366"
    memory: ClassVar[str] = "((2*size*(m + n) if placement == 'parallel' else 4*size*rows) + 2)*(role in matrices)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size >= 1, "size", self.size, "an integer of at least 1")
        require(self.scale > 0, "scale", self.scale, "a positive number")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        return self.freeze_rest(adapters.replace(model, self.matrices, lambda linear, name: Adapted(linear, self, seed, name)))

    def before_step(self, training: Training) -> None:
        if self.dropout:
            adapters.seed_dropout(training)


class Adapted(nn.Module):
    """A frozen linear module and its adapter."""

    def __init__(self, linear: nn.Linear, rule: Bottleneck, seed: int, name: str) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.role, self.rule, self.bias = linear.role, rule, linear.bias
        self.weight = adapters.frozen(linear.weight)
        self.adapter_a = nn.Parameter(linear.weight.new_zeros(rule.size, outputs if rule.placement == "serial" else inputs))
        self.adapter_b = nn.Parameter(linear.weight.new_zeros(outputs, rule.size))
        adapters.fill_uniform(self.adapter_a, self.adapter_a.shape[1] ** -0.5, seed, f"{name}.adapter_a")

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.weight, self.bias)
        seen = F.dropout(z if self.rule.placement == "serial" else x, self.rule.dropout, self.training)
        function = torch.tanh if self.rule.activation == "tanh" else getattr(F, self.rule.activation)
        return z + self.rule.scale * F.linear(function(F.linear(seen, self.adapter_a)), self.adapter_b)
