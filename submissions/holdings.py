"""What optimizers keep between steps: the tensors that count as state, wherever they hold them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions.engine import MatrixOptimizer

NO_STATE = {"params", "lr", "initial_lr", "set_lr"}
"""Values of a group that are no state though they may be tensors: the parameters, and the rates, which the runner owns."""


def state_tensors(optimizer: Optimizer) -> Iterator[Tensor]:
    """Every tensor an optimizer keeps between steps, each once; no parameter and no gradient."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return tensors_in(optimizer, but=[*parameters, *(p.grad for p in parameters if p.grad is not None)])


def tensors_in(root: Any, *, but: Sequence[Tensor] = ()) -> Iterator[Tensor]:
    """The tensors in containers, objects and optimizers, however deep, each once; none that shares memory with those in `but`."""
    apart = {tensor.untyped_storage()._cdata for tensor in but if tensor.layout == torch.strided}
    seen: dict[int, Any] = {id(tensor): tensor for tensor in but}  # the values too, so that no other takes their place in memory
    waiting: list[Any] = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if not isinstance(value, Tensor) or hasattr(value, "__tensor_flatten__") or value.layout != torch.strided:
            waiting += reversed(_inside(value))
        elif value.untyped_storage()._cdata not in apart:
            yield value


def _inside(value: Any) -> list[Any]:
    """What a container or an object holds; nothing of modules and classes, whose tensors are not state."""
    if isinstance(value, MatrixOptimizer):
        return list(value.state_tensors())
    if isinstance(value, Optimizer):
        own = [held for name, held in vars(value).items() if name not in ("param_groups", "defaults")]
        return own + [held for group in value.param_groups for name, held in group.items() if name not in NO_STATE]
    if isinstance(value, Tensor) and value.layout == torch.sparse_coo:
        return [value._indices(), value._values()]
    if isinstance(value, Tensor) and value.layout != torch.strided:
        by_row = value.layout in (torch.sparse_csr, torch.sparse_bsr)
        parts = ("crow_indices", "col_indices") if by_row else ("ccol_indices", "row_indices")
        return [getattr(value, part)() for part in (*parts, "values")]
    if isinstance(value, Tensor):  # one made of others, such as 8-bit codes and their scales
        return [getattr(value, name) for name in value.__tensor_flatten__()[0]]  # type: ignore[attr-defined]  # asked for by the caller
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, nn.Module | ModuleType | type):
        return []
    return [object.__getstate__(value)]  # its attributes, those in slots too
