"""What a submission is: a frozen dataclass of hyperparameters with pure functions.

`MatrixSubmission` is for rules that treat each weight matrix by itself: two functions, `init` and `update`.
Everything else overrides a few whole-model hooks of `Submission`.

Shape legend: b matrices of equal shape stacked, m <= n rows and columns (taller matrices arrive transposed), r rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import schedules

State = dict[str, Tensor]
"""What a rule remembers of a stack of matrices: tensors whose first axis is b."""

Probes = dict[str, Tensor]
"""Values an update computed anyway, for the record: first axis b, at most one more axis."""

MATRIX_ROLES = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
"""The seven matrices of a LLaMA layer: what the GaLore family projects."""


def named_roles(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(name, role, parameter) of every trainable parameter, each once.

    A module's `role` names its `weight`; a parameter of another name, such as LoRA's `lora_a`, gets `<role>.<name>`.
    A parameter of a module without a role has the role `other`.
    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        role = getattr(module, "role", None)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            own = "other" if role is None else role if name == "weight" else f"{role}.{name}"
            yield f"{prefix}.{name}" if prefix else name, own, parameter


@dataclass
class Training:
    """The live training that the hooks of a submission see and may change."""

    model: nn.Module
    seed: int
    steps: int
    """The step budget: what `horizon` is a fraction of."""
    t: int = 0
    """Number of the current update, from 1."""
    optimizers: list[Optimizer] = field(default_factory=list)
    state: State = field(default_factory=dict)
    """The submission's own tensors beside the optimizers' states, made in `begin`; kept in checkpoints and counted as state."""
    backward: Callable[[Any], Tensor] = field(default=lambda batch: _not_running())
    """Adds the gradient of the batch's mean loss to `.grad`; returns that loss, detached."""
    loss: Callable[[Any], Tensor] = field(default=lambda batch: _not_running())
    """The batch's mean loss without gradients, for methods that have no backward pass."""
    probe: Callable[[Probes, list[str]], None] | None = None
    """Takes probes and the names of their matrices when this step is one to record, else None."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A training algorithm; its fields are the hyperparameters, the schedule's among them."""

    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup: float = 0.1
    """Linear warm-up, as a fraction of the horizon."""
    horizon: float = 1.0
    """Length of the schedule, as a fraction of the workload's step budget."""
    final_lr: float = 0.1
    """Learning rate at the horizon, as a fraction of the peak; it stays there afterwards."""
    clip: float | None = None
    """Largest global norm of the gradient; None does not clip."""

    paper: ClassVar[str] = ""
    """Authors, year, arXiv id."""
    kind: ClassVar[Literal["full-rank", "projection", "selection", "re-parameterisation", "quantised", "other"]] = "other"
    memory: ClassVar[str] = ""
    """State per m x n matrix (m <= n) in elements of 4 bytes, as a Python expression over m, n and the hyperparameters."""

    def __post_init__(self) -> None:
        """Checks ranges. Subclasses extend it.

        Raises:
            ValueError: a hyperparameter is out of range.
        """
        require(self.lr > 0, "lr", self.lr, "a positive number")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "a fraction in [0, 1]")
        require(0 < self.horizon, "horizon", self.horizon, "a positive fraction of the step budget")
        require(0 <= self.final_lr <= 1, "final_lr", self.final_lr, "a fraction in [0, 1]")
        require(self.clip is None or self.clip > 0, "clip", self.clip, "a positive norm, or null for no clipping")

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        """The model to train: the given one, changed in place or replaced (LoRA, SLTrain)."""
        return model

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        """Optimizers that own every trainable parameter exactly once; their `lr` is the peak."""
        raise NotImplementedError(f"{type(self).__name__} must define optimizers()")

    def lr_factor(self, t: int, steps: int) -> float:
        """The learning rate of update t (from 1) over its peak."""
        return schedules.factor(self.schedule, t, steps * self.horizon, warmup=self.warmup, final=self.final_lr)

    def begin(self, training: Training) -> None:
        """Called once before the first step, also before a checkpoint's tensors are loaded: make what `training.state` holds."""

    def before_step(self, training: Training) -> None:
        """Called before the gradient of update `training.t`: switch layers, grow the model."""

    def train_step(self, training: Training, batch: Any) -> Tensor:
        """Puts the gradient of the batch into `.grad`; returns the mean loss, detached."""
        return training.backward(batch)

    def after_step(self, training: Training) -> None:
        """Called after the weights were changed: merge, average, reset."""

    def restore(self, training: Training) -> None:
        """Called on resume before tensors are loaded: bring structure and owners to what they were after `training.t` updates."""

    @contextlib.contextmanager
    def for_eval(self, training: Training) -> Iterator[None]:
        """Weights to evaluate are in place inside this context (averages, schedule-free)."""
        yield


StateDtype = Literal["fp32", "bf16", "bf16_stochastic"]


class Direction(NamedTuple):
    """U = gain G + P X, where either term may be missing: the engine can add it to the weights without forming it."""

    scaled: tuple[Tensor, Tensor] | None = None
    """G_bmn and gain_b1n (or b11)."""
    product: tuple[Tensor, Tensor] | None = None
    """P_bmr and X_brn."""

    def formed(self) -> Tensor:
        """U_bmn; takes the place of G."""
        if self.scaled is None:
            assert self.product is not None, "a direction has at least one term"
            return self.product[0] @ self.product[1]
        G_bmn, gain_b1n = self.scaled
        U_bmn = G_bmn.mul_(gain_b1n)
        return U_bmn if self.product is None else U_bmn.baddbmm_(*self.product)


@dataclass(frozen=True, kw_only=True)
class MatrixSubmission(Submission):
    """A rule per weight matrix; all other parameters go to Adam.

    The engine applies `W <- W - lr_t * U`, with U from `update`, and walks or stacks the matrices as is fastest.
    """

    matrices: tuple[str, ...] = MATRIX_ROLES
    """Roles of the matrices that the rule treats."""
    weight_decay: float = 0.0
    """Weight decay of every parameter, relative to the learning rate."""
    state_dtype: StateDtype = "fp32"
    """Storage of the state between steps; the arithmetic is always fp32."""
    dense_lr: float | None = None
    """Peak learning rate of the parameters that the rule does not treat; None takes `lr`."""
    dense_betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates for the parameters that the rule does not treat."""
    dense_eps: float = 1e-6
    """Adam's epsilon there."""

    decay: ClassVar[Literal["after", "before", "coupled"]] = "after"
    """Weight decay acts on the updated weight (GaLore family), before the update (torch's AdamW), or is added to the gradient (L2)."""
    elementwise: ClassVar[bool] = False
    """True if no entry's update depends on another's, state changes in place and there are no probes: a CPU then updates large matrices
    piece by piece, in its cache."""
    wide: ClassVar[bool] = True
    """Matrices arrive with m <= n: square and tall ones transposed. False hands them over as they are stored (out x in)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(self.dense_lr is None or self.dense_lr > 0, "dense_lr", self.dense_lr, "a positive number or null")

    @property
    def seeded(self) -> bool:
        """True adds `seed_b` (int64, on the CPU, one per matrix) to the state, for rules that draw random numbers."""
        return False

    def init(self, W_bmn: Tensor) -> State:
        """State for a stack of matrices, every tensor in its final shape (P too, as zeros)."""
        raise NotImplementedError(f"{type(self).__name__} must define init(W_bmn)")

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        """The direction U_bmn of update t = 1, 2, ... from the gradient, which may be overwritten; changes only `state`."""
        found, probes = self.direction(G_bmn, state, t)
        return found.formed(), probes

    def direction(self, G_bmn: Tensor, state: State, t: int) -> tuple[Direction, Probes]:
        """Instead of `update`: the direction in two terms that need not be added up, which saves passes over the weights."""
        raise NotImplementedError(f"{type(self).__name__} must define update(G_bmn, state, t)")

    def refresh(self, G_bmn: Tensor, state: State, t: int) -> None:
        """Renews the subspace; called before `update` when `refreshes(t)`, and timed apart."""

    def refreshes(self, t: int) -> bool:
        """Whether `refresh` is due at update t; by default every `gap` updates, from the first, if there is a field `gap`."""
        gap = getattr(self, "gap", None)
        return hasattr(self, "gap") and (t == 1 if gap is None else (t - 1) % gap == 0)

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        from submissions import dense  # it knows this class; the import waits until both are loaded

        return dense.beside(self, model, seed)


def require(fine: bool, name: str, given: object, expected: str) -> None:
    """Raises ValueError naming the hyperparameter, what was given and what was expected, unless `fine`."""
    if not fine:
        raise ValueError(f"{name} = {given!r}: expected {expected}")


def _not_running() -> Tensor:
    raise RuntimeError("this Training is not attached to a runner: call it from a hook during a trial")
