"""Prefix tuning: trained keys and values that every position sees before the text; the model is frozen.

Li and Liang 2021, arXiv 2101.00190; the form without the paper's reparameterising MLP, as peft's default is (LLaMA has no such MLP).

    in each attention layer:  K' = [P_k; K], V' = [P_v; V];  softmax(q K'^T / sqrt(k)) V'      P_k, P_v p x d, shared by all sequences

Memory: for attn.k and attn.v 2 p d + 1 each, with d their output size. A prefix has no position: its keys are not rotated, as in
peft. Defaults: LLM-Adapters' comparison (p 30; Hu et al. 2023, arXiv 2304.01933) with entries N(0, init^2), whose size is ours. Traps: at
the start it is not the base model, as the prefix takes attention away from the text (He et al. 2022, arXiv 2110.04366: the
output is (1 - l) of the old one and l of the prefix's); it lengthens every later step by p keys and cannot be merged.
It needs an attention module with `k` and `v` that reads `context.extend` and `context.mask_bts` (as ours does).
Shapes: b sequences, h heads, t positions, s earlier and present ones, p prefix, k size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from submissions import engine, linalg
from submissions.adapters import AdapterSubmission
from submissions.base import named_roles, require


@dataclass(frozen=True, kw_only=True)
class Prefix(AdapterSubmission):
    """Prefix tuning."""

    lr: float = 3e-4
    """Peak learning rate."""
    matrices: tuple[str, ...] = ("attn.k", "attn.v")
    """Roles of the keys' and the values' matrix, which get the prefixes and are frozen."""
    rest: Literal["train", "freeze"] = "freeze"
    """What becomes of all other parameters."""
    tokens: int = 30
    """p: length of the prefix."""
    init: float = 0.02
    """Standard deviation of the entries at the start."""

    paper: ClassVar[str] = "Li and Liang 2021, arXiv 2101.00190"
    memory: ClassVar[str] = "(2*tokens*rows + 1)*(role in matrices)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.matrices) == 2, "matrices", self.matrices, "two roles: of the keys' and of the values' matrix")
        require(self.tokens >= 1, "tokens", self.tokens, "an integer of at least 1")
        require(self.init >= 0, "init", self.init, "zero or more")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        owners = [(name, module) for name, module in model.named_modules() if roles(module) >= set(self.matrices)]
        if not owners:
            present = ", ".join(sorted({role for _, role, _ in named_roles(model)}))
            raise ValueError(f"matrices = {self.matrices!r}: no attention module has both; the model has {present}")
        for name, attention in owners:
            pair = []
            for part, linear in attention.named_children():
                if getattr(linear, "role", None) in self.matrices:
                    assert isinstance(linear, nn.Linear)
                    linear.weight.requires_grad_(False)
                    linear.prefix = nn.Parameter(linear.weight.new_zeros(self.tokens, linear.out_features))
                    self.fill(linear.prefix, seed, f"{name}.{part}.prefix")
                    pair.append((linear.role, linear))
            found: dict[Any, nn.Linear] = dict(pair)
            attention.register_forward_pre_hook(Prefixing(found[self.matrices[0]], found[self.matrices[1]]), with_kwargs=True)
        return self.freeze_rest(model)

    @torch.no_grad()
    def fill(self, prefix: Tensor, seed: int, name: str) -> None:
        """Normal entries from (seed, name) alone."""
        if not prefix.is_meta:
            generator = linalg.generator(engine.seed_of(seed, name), 0)
            prefix.copy_(torch.randn(prefix.shape, generator=generator).mul_(self.init))


def roles(module: nn.Module) -> set[str]:
    """Roles of a module's children."""
    return {str(child.role) for child in module.children() if hasattr(child, "role")}


class Prefixing:
    """Gives an attention module a context that begins with the prefix, before whatever it has read."""

    def __init__(self, keys: nn.Linear, values: nn.Linear) -> None:
        self.keys, self.values = keys, values

    def __call__(self, attention: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x_btd, cos_tk, sin_tk, *rest = given
        context = named.pop("context", rest[0] if rest else None)
        return (x_btd, cos_tk, sin_tk, Prefixed(self, x_btd, context)), named


class Prefixed:
    """What the attention module sees as its context."""

    def __init__(self, prefix: Prefixing, x_btd: Tensor, inner: Any) -> None:
        self.prefix, self.inner = prefix, inner
        t = x_btd.shape[1]
        mask = None if inner is None else inner.mask_bts
        seen = x_btd.new_ones(1, t, t, dtype=torch.bool).tril() if mask is None else mask
        tokens = len(prefix.keys.prefix)  # type: ignore[arg-type]  # a parameter that torch's types do not know
        self.mask_bts = torch.cat((seen.new_ones(len(seen), t, tokens), seen), dim=2)

    def extend(self, attention: nn.Module, k_bhtk: Tensor, v_bhtk: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix, earlier and present keys and values."""
        if self.inner is not None:
            k_bhtk, v_bhtk = self.inner.extend(attention, k_bhtk, v_bhtk)
        return tuple(self.before(linear, x) for linear, x in ((self.prefix.keys, k_bhtk), (self.prefix.values, v_bhtk)))  # type: ignore[return-value]  # two of them

    def before(self, linear: nn.Linear, x_bhsk: Tensor) -> Tensor:
        b, h, _, k = x_bhsk.shape
        P_hpk = linear.prefix.unflatten(1, (h, k)).transpose(0, 1)  # type: ignore[operator]  # a parameter that torch's types do not know
        return torch.cat((P_hpk.to(x_bhsk.dtype).expand(b, -1, -1, -1), x_bhsk), dim=2)
