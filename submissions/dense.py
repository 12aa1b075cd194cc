"""Adam for whole parameters: the baselines' optimizer, and what a matrix rule leaves to it (embedding, head, norms).

torch's fused kernels do the work wherever weights and state share a dtype; `ElementwiseAdam` is the plain definition, which serves
the other cases and against which the fused ones are tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import linalg
from submissions.base import MatrixSubmission, Probes, State, StateDtype, Submission, named_roles, require
from submissions.engine import MatrixOptimizer, Named, stochastic_bf16

Decay = Literal["after", "before", "coupled"]
FUSED_DTYPE = {torch.float64: "fp32", torch.float32: "fp32", torch.bfloat16: "bf16"}


class ByParameter(Optimizer):
    """An optimizer whose step can be taken parameter by parameter, since what belongs to the update as a whole is counted apart."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the runner owns the backward pass
        self.advance()
        self.apply()

    def advance(self) -> None:
        """Begins the next update."""
        raise NotImplementedError(f"{type(self).__name__} must define advance()")

    def apply(self) -> None:
        """The current update of the parameters that have a gradient."""
        raise NotImplementedError(f"{type(self).__name__} must define apply()")


class FamilyAdam(ByParameter, torch.optim.AdamW):
    """torch's fused AdamW with the GaLore family's two habits: eps beside the raw sqrt(v), weight decay after the step.

    lr sqrt(1-b2^t)/(1-b1^t) m/(sqrt(v)+eps) is torch's step with eps / sqrt(1-b2^t). Source: transformers' former AdamW class, from
    which the released GaLore, Fira and APOLLO optimizers descend.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=0.0, fused=True)
        self.param_groups[0].update(t=0, raw_eps=eps, decay_after=weight_decay)

    def advance(self) -> None:
        group = self.param_groups[0]
        group["t"] += 1
        group["eps"] = group["raw_eps"] / math.sqrt(1 - group["betas"][1] ** group["t"])

    @torch.no_grad()
    def apply(self) -> None:
        torch.optim.AdamW.step(self)
        group = self.param_groups[0]
        if group["decay_after"]:
            updated = [parameter for parameter in group["params"] if parameter.grad is not None]
            torch._foreach_add_(updated, updated, alpha=-group["lr"] * group["decay_after"])


@dataclass(frozen=True, kw_only=True)
class ElementwiseAdam(MatrixSubmission):
    """Adam as a rule of the engine, for parameters of any shape and any dtype of state."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    raw_eps: bool = False
    """eps stands beside sqrt(v) before bias correction (GaLore family) instead of after it (torch)."""

    elementwise: ClassVar[bool] = True
    wide: ClassVar[bool] = False

    def init(self, W_bmn: Tensor) -> State:
        dtype = linalg.arithmetic(W_bmn.dtype)
        return {"m": torch.zeros_like(W_bmn, dtype=dtype), "v": torch.zeros_like(W_bmn, dtype=dtype)}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        eps = self.eps if self.raw_eps else self.eps * math.sqrt(1 - self.betas[1] ** t)
        psi_bmn = linalg.adam(G_bmn, state["m"], state["v"], self.betas, eps)
        return psi_bmn.mul_(linalg.bias_correction(t, self.betas)), {}


class _Coupled(ElementwiseAdam):
    decay: ClassVar[Decay] = "coupled"


class _Before(ElementwiseAdam):
    decay: ClassVar[Decay] = "before"


def adam(
    members: Sequence[Named],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay: Decay,
    state_dtype: StateDtype = "fp32",
    seed: int = 0,
) -> Optimizer:
    """An Adam that owns `members`; `decay` = after also means the family's place of eps (see `FamilyAdam`)."""
    parameters = [member.parameter for member in members]
    if all(FUSED_DTYPE.get(parameter.dtype) == state_dtype for parameter in parameters):
        if decay == "after":
            return FamilyAdam(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        fused = torch.optim.Adam if decay == "coupled" else torch.optim.AdamW
        return fused(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
    kind = {"after": ElementwiseAdam, "before": _Before, "coupled": _Coupled}[decay]
    rule = kind(betas=betas, eps=eps, raw_eps=decay == "after", weight_decay=weight_decay, state_dtype=state_dtype)
    return MatrixOptimizer(rule, members, lr=lr, seed=seed)


@dataclass(frozen=True, kw_only=True)
class AdamSubmission(Submission):
    """Trains by Adam, or has an Adam among its optimizers; these are its constants."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment, in [0, 1)."""
    eps: float = 1e-8
    """Adam's epsilon, beside the bias-corrected sqrt(v)."""
    weight_decay: float = 0.0
    """Decoupled decay of what is trained, relative to the learning rate."""
    state_dtype: StateDtype = "fp32"
    """Storage of Adam's moments between steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")

    def adam(self, members: Sequence[Named], lr: float, seed: int, *, decay: Decay = "before", decayed: bool = True) -> Optimizer:
        """An Adam that owns `members`, with these constants."""
        return adam(
            members,
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay if decayed else 0.0,
            decay=decay,
            state_dtype=self.state_dtype,
            seed=seed,
        )


def beside(rule: MatrixSubmission, model: nn.Module, seed: int, *, vectors: bool = False) -> list[Optimizer]:
    """The rule's optimizer for the matrices of its roles, their vectors too if it can, and Adam for everything else.

    Raises:
        ValueError: no matrix of the model has one of the roles.
    """
    matrices, rest = split(model, rule.matrices, vectors=vectors)
    found: list[Optimizer] = [MatrixOptimizer(rule, matrices, lr=rule.lr, seed=seed)]
    return [*found, *of_rest(rule, rest, seed)]


def of_rest(rule: MatrixSubmission, rest: Sequence[Named], seed: int) -> list[Optimizer]:
    """The Adam of what a matrix rule leaves over, if it leaves anything."""
    if not rest:
        return []
    return [
        adam(
            rest,
            lr=rule.dense_lr or rule.lr,
            betas=rule.dense_betas,
            eps=rule.dense_eps,
            weight_decay=rule.weight_decay,
            decay="after" if rule.decay == "after" else "before",
            state_dtype=rule.state_dtype,
            seed=seed,
        )
    ]


def trainable(model: nn.Module) -> list[Named]:
    """All trainable parameters."""
    return [Named(name, parameter) for name, _, parameter in named_roles(model)]


def split(model: nn.Module, roles: tuple[str, ...], *, vectors: bool = False) -> tuple[list[Named], list[Named]]:
    """The trainable matrices (or `vectors`) of these roles, and all other trainable parameters.

    Raises:
        ValueError: no matrix of the model has one of the roles.
    """
    matrices: list[Named] = []
    rest: list[Named] = []
    present: set[str] = set()
    for name, role, parameter in named_roles(model):
        present.add(role)
        (matrices if covers(roles, role) and (vectors or parameter.ndim == 2) else rest).append(Named(name, parameter))
    if not matrices:
        raise ValueError(f"matrices = {roles!r}: the model has no trainable matrix of these roles; it has {', '.join(sorted(present))}")
    return matrices, rest


def covers(roles: tuple[str, ...], role: str) -> bool:
    """Whether a role is one of these or lies inside one, as a factor `attn.q.lora_a` lies inside `attn.q`."""
    return any(role == one or role.startswith(f"{one}.") for one in roles)


def stored(moment: Tensor, state_dtype: StateDtype, seed: int) -> Tensor:
    """A moment as an optimizer keeps it between steps: as it is, or in bf16, rounded to nearest or at random from the seed."""
    if state_dtype == "fp32":
        return moment
    return stochastic_bf16(moment, seed) if state_dtype == "bf16_stochastic" else moment.bfloat16()


class ExactState(Optimizer):
    """An optimizer whose loaded state keeps its dtypes; torch's own loading rounds it to the dtype of the parameters."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                self.state[parameter] = {key: value.to(parameter.device) for key, value in state_dict["state"][number].items()}
