"""What a workload is: fixed model, data, batch, evaluation, target and budget.

A workload module (one file in this folder, or a user's own) defines `WORKLOADS`, a tuple of `Workload` objects; the
registry finds them by scanning the folder.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Dtype = Literal["fp32", "bf16"]


def require(fine: bool, name: str, given: object, expected: str) -> None:
    """Raises ValueError naming the field, what was given and what was expected, unless `fine`."""
    if not fine:
        raise ValueError(f"{name} = {given!r}: expected {expected}")


def require_counts(owner: object, *names: str, within: str = "") -> None:
    """Raises ValueError unless each of these fields is a count; None, where a field may be it, is no count to be checked."""
    for name in names:
        given = getattr(owner, name)
        require(given is None or given >= 1, f"{within}{name}", given, "a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The quality that ends the race."""

    metric: str
    """Name of a value returned by `Workload.evaluate`."""
    value: float
    mode: Literal["min", "max"] = "min"
    provisional: bool = False
    """True if nobody of ours has reached it with this code yet."""
    source: str = ""

    def reached_by(self, value: float) -> bool:
        """Inclusive; NaN reaches nothing."""
        return value <= self.value if self.mode == "min" else value >= self.value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Both limits are enforced; the first one met ends the trial."""

    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Dtype of the weights (gradients have the same) and of the autocast region, if any."""

    weights: Dtype = "fp32"
    autocast: Dtype | None = None

    def region(self, device: str) -> AbstractContextManager[None]:
        """The autocast region on a type of device, such as `cuda`; nothing if there is none."""
        if self.autocast is None:
            return nullcontext()
        import torch

        return torch.autocast(device, dtype=torch.bfloat16 if self.autocast == "bf16" else torch.float32)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences per optimizer step, their length in tokens, and how many go through the model at once."""

    sequences: int
    length: int
    micro: int | None = None

    def __post_init__(self) -> None:
        require_counts(self, "sequences", "length", "micro", within="batch.")

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """One fixed training problem. Everything here is independent of the submission."""

    name: str
    batch: Batch
    budget: Budget
    target: Target | None
    evaluate_every: int
    """Steps between two evaluations."""
    hardware: str
    """Class of machine for which budgets and times are meant: `cpu`, `gpu-24gb`, `gpu-80gb`, ..."""
    precision: Precision = Precision()
    variant_of: str | None = None
    diverged_above: float = 20.0
    """Training loss (nats per token) above which a trial has diverged."""
    checkpointing: bool = False
    """Recompute activations in the backward pass."""
    devices: int = 1
    """Processes that share each global batch, one device each."""
    layerwise: bool = False
    """Update each parameter as soon as its gradient is there and free the gradient; no accumulation and no clipping then."""
    shard_state: bool = False
    """Divide the optimizer's state over the devices, by matrix."""
    compile: bool = False
    """Compile the model with `torch.compile`; the time it takes is on the clock, from an empty cache."""

    def __post_init__(self) -> None:
        require_counts(self, "evaluate_every", "devices")
        require(self.diverged_above > 0, "diverged_above", self.diverged_above, "a positive number")

    @abstractmethod
    def build(self, seed: int, device: torch.device | str) -> nn.Module:
        """A freshly initialised model whose `forward(tokens_bt)` gives logits.

        Modules that hold parameters carry `role` (see `submissions.base.named_roles`); `model.layers` is the `ModuleList` of
        decoder layers. Works on the meta device.
        """

    @abstractmethod
    def open_data(self) -> Data:
        """The prepared data, mapped into memory.

        Raises:
            ValueError: it is missing, corrupt or changed; the message says which command prepares it.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """Sum of the losses over the batch's target tokens, in nats, and their number (a host integer)."""

    @abstractmethod
    def evaluate(self, model: nn.Module, data: Data, device: torch.device | str) -> dict[str, float]:
        """Metrics on the fixed validation set, `target.metric` among them; independent of batch size and device count."""

    def conclude(self, model: nn.Module, data: Data, device: torch.device | str) -> dict[str, float]:
        """Metrics that are too dear for the evaluation grid: measured once, off the clock, when the trial has ended."""
        return {}

    @abstractmethod
    def example(self, device: torch.device | str) -> Any:
        """A micro-batch of the right shape without data, for memory prediction (`device` may be `meta`)."""

    def compilable(self, model: nn.Module) -> Iterable[nn.Module]:
        """The modules that `compile` compiles, each by itself; those of one make share a graph."""
        return cast("nn.ModuleList", model.layers)

    def adapted(self, changed: frozenset[str]) -> Workload:
        """What follows from a user's changes of these fields (as typed: `data`, `batch.length`), such as a target that no longer holds."""
        return self

    def check(self) -> None:
        """Stops if fields do not go together; what one alone may not be is refused when it is set.

        Raises:
            ValueError: naming the field, what it is and what was expected.
        """
        divides = self.batch.sequences % self.devices == 0
        require(divides, "batch.sequences", self.batch.sequences, f"a multiple of devices = {self.devices}, which share them")

    def spec(self) -> dict[str, Any]:
        """Plain data that identifies the workload; part of the trial's content hash."""
        content = dataclasses.asdict(self)
        for later in ("shard_state", "compile"):  # an identity from before there was such a setting stays what it was
            if not content[later]:
                del content[later]
        return {"class": type(self).__name__, **content}


class Data(ABC):
    """Prepared training data, addressed by step."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """`name`, `sha256`, `tokenizer`, `layout`: what the record keeps."""

    @abstractmethod
    def micro_batches(
        self, seed: int, step: int, batch: Batch, device: torch.device | str, *, rank: int = 0, world: int = 1
    ) -> Iterator[Any]:
        """This rank's share of the global batch of `step` (1-based), micro-batch by micro-batch.

        The global batch is a function of (seed, step) alone.
        """

    @abstractmethod
    def target_tokens(self, seed: int, step: int, batch: Batch) -> int:
        """Number of loss-bearing tokens in the global batch of `step`: the denominator of its mean loss."""
