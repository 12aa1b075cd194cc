"""Factors beside or in place of a model's matrices: what LoRA, ReLoRA, SLTrain and their kin share.

A wrapped module keeps its matrix's role, so its factors have the roles `attn.q.lora_a`, `attn.q.lora_b`, ...; a rule that names the role
`attn.q` treats them too (see `dense.split`). That is how an adapter meets another optimizer: `wrap` of one, `optimizers` of the other.
Shapes here are those of storage: W is m x n = out x in, B m x r, A r x n, x ... x n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from submissions import dense, engine, holdings, linalg
from submissions.base import MATRIX_ROLES, Training, named_roles, require
from submissions.dense import AdamSubmission
from submissions.engine import Named


@dataclass(frozen=True, kw_only=True)
class AdapterSubmission(AdamSubmission):
    """Trains factors of the chosen matrices by Adam, and all other parameters by another Adam or not at all."""

    matrices: tuple[str, ...] = MATRIX_ROLES
    """Roles of the matrices that get factors."""
    rest: Literal["train", "freeze"] = "train"
    """What becomes of embedding, head and norms: trained (pre-training) or frozen (fine-tuning)."""
    dense_lr: float | None = None
    """Peak learning rate of everything but the factors; None takes `lr`."""

    kind: ClassVar[Literal["re-parameterisation"]] = "re-parameterisation"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dense_lr is None or self.dense_lr > 0, "dense_lr", self.dense_lr, "a positive number or null")

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        """Adam of the factors first, then Adam of the rest."""
        factors, others = split(model, self.matrices)
        return [self.adam(group, lr, seed) for group, lr in ((factors, self.lr), (others, self.dense_lr or self.lr)) if group]

    def bound(self) -> str | None:
        """What ties this adapter to its own Adam, if anything does: it then trains under no other submission's rule."""
        return None

    def freeze_rest(self, model: nn.Module) -> nn.Module:
        """The model, without gradients outside of the factors if `rest` says so."""
        if self.rest == "freeze":
            for member in split(model, self.matrices)[1]:
                member.parameter.requires_grad_(False)
        return model


class LowRank(nn.Module):
    """y = x W^T + scale (x A^T) B^T + bias, with W frozen, or y = scale (x A^T) B^T + bias without W."""

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float = 0.0, keep: bool = True) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.role, self.scale, self.dropout = linear.role, scale, dropout
        self.weight = frozen(linear.weight) if keep else None
        self.bias = linear.bias
        self.lora_a = nn.Parameter(linear.weight.new_zeros(linalg.rank_of(linear.weight, rank), inputs))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        inside = F.dropout(x, self.dropout, self.training) if self.dropout else x
        low: Tensor = F.linear(F.linear(inside, self.lora_a), self.lora_b * self.scale)
        if self.weight is not None:
            return low + F.linear(x, self.weight, self.bias)
        return low if self.bias is None else low + self.bias

    @torch.no_grad()
    def product(self) -> Tensor:
        """scale B A in the arithmetic's dtype."""
        dtype = linalg.arithmetic(self.lora_a.dtype)
        return self.scale * (self.lora_b.to(dtype) @ self.lora_a.to(dtype))

    @torch.no_grad()
    def effective(self) -> Tensor:
        """The matrix that a vector is multiplied by."""
        return self.product() if self.weight is None else self.product() + self.weight


def frozen(weight: Tensor) -> nn.Parameter:
    """The same values as a parameter without gradient."""
    return nn.Parameter(weight.detach(), requires_grad=False)


def replace(model: nn.Module, roles: tuple[str, ...], make: Callable[[nn.Linear, str], nn.Module]) -> nn.Module:
    """The model with make(matrix, name) in place of each linear module of these roles.

    Raises:
        ValueError: there is none.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and hasattr(module, "role")}
    found = {name: module for name, module in linears.items() if module.role in roles}
    if not found:
        present = ", ".join(sorted({str(module.role) for module in linears.values()})) or "none"
        raise ValueError(f"matrices = {roles!r}: the model has no linear module of these roles; it has {present}")
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(module, name))
    return model


def factored(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """The low-rank modules of a model by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LowRank))


def split(model: nn.Module, roles: tuple[str, ...]) -> tuple[list[Named], list[Named]]:
    """The trainable parameters of the modules with these roles, of any shape, and all others."""
    inside: list[Named] = []
    outside: list[Named] = []
    for name, role, parameter in named_roles(model):
        (inside if dense.covers(roles, role) else outside).append(Named(name, parameter))
    return inside, outside


@torch.no_grad()
def fill_uniform(parameter: Tensor, bound: float, seed: int, name: str, t: int = 0) -> None:
    """U(-bound, bound) entries from (seed, name, t) alone; bound = 1/sqrt(fan in) is the Kaiming start of a linear layer (a = sqrt 5)."""
    if not parameter.is_meta:
        generator = linalg.generator(engine.seed_of(seed, name), t)
        parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


@torch.no_grad()
def fill_factors(B_mr: Tensor, A_rn: Tensor, W_mn: Tensor) -> None:
    """B A = the best approximation of W of their rank, with B^T B = A A^T = its singular values."""
    if W_mn.is_meta:
        return
    U, s, Vt = torch.linalg.svd(W_mn.to(linalg.arithmetic(W_mn.dtype)), full_matrices=False)
    rank = len(A_rn)
    root_r = s[:rank].sqrt()
    B_mr.copy_(linalg.fix_signs(U[:, :rank]) * root_r)
    turned = (linalg.fix_signs(U[:, :rank]) * U[:, :rank]).sum(0)  # 1 or -1 for each pair of singular vectors
    A_rn.copy_((turned * root_r)[:, None] * Vt[:rank])


@torch.no_grad()
def balance(B_mr: Tensor, A_rn: Tensor) -> None:
    """The same product B A with B^T B = A A^T = its singular values; the m x n matrix is never formed."""
    dtype = linalg.arithmetic(B_mr.dtype)
    left_mr, R_rr = torch.linalg.qr(B_mr.to(dtype))
    right_nr, S_rr = torch.linalg.qr(A_rn.to(dtype).mT)
    U_rr, s_r, Vt_rr = torch.linalg.svd(R_rr @ S_rr.mT)
    B_mr.copy_(left_mr @ (U_rr * s_r.sqrt()))
    A_rn.copy_((s_r.sqrt()[:, None] * Vt_rr) @ right_nr.mT)


@torch.no_grad()
def restart_steps(optimizer: Optimizer) -> None:
    """Starts Adam's bias correction again."""
    if isinstance(optimizer, engine.MatrixOptimizer):
        optimizer.t = 0
    for tensor in holdings.state_tensors(optimizer):
        if tensor.ndim == 0:
            tensor.zero_()


@torch.no_grad()
def forget(optimizer: Optimizer) -> None:
    """Zeroes what Adam remembers, its step count too."""
    for tensor in holdings.state_tensors(optimizer):
        tensor.zero_()
    restart_steps(optimizer)


def seed_dropout(training: Training) -> None:
    """Makes the masks of update t a function of (seed, t): torch's dropout has no generator of its own."""
    torch.manual_seed(engine.seed_of(training.seed, f"dropout {training.t}"))
