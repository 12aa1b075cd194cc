"""Who races whom in `bench_steps.py`: each submission against the package or torch optimizer that its tests verify it with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import dense
from submissions.adafactor import Adafactor
from submissions.adam import Adam
from submissions.adam8bit import Adam8bit
from submissions.adam_mini import AdamMini
from submissions.adamw import Adamw
from submissions.apollo import Apollo
from submissions.badam import Badam
from submissions.base import MATRIX_ROLES, Submission, named_roles
from submissions.fira import Fira
from submissions.flora import Flora
from submissions.galore import Galore
from submissions.galore8bit import Galore8bit
from submissions.lion import Lion
from submissions.muon import Muon
from submissions.nadamw import Nadamw
from submissions.schedule_free import ScheduleFree
from submissions.sgd import Sgd
from submissions.soap import Soap

NEVER = 10**9
"""Updates until a refresh or a switch: outside of every race."""
SAME_KERNEL = 0.97
"""The goal where both sides end in the same kernel of torch, so that 1 would be a toss of a coin."""


@dataclass(frozen=True)
class Race:
    """One of ours against one of theirs; both builders are given the rank that the model calls for."""

    name: str
    package: str
    """Distribution that must be installed."""
    goal: float
    """Their time over ours, at least."""
    ours: Callable[[int], Submission]
    theirs: Callable[[nn.Module, int], list[Optimizer]]
    slow: bool = False
    """Takes seconds a step on LLaMA-60M: by default it runs on a few layers only."""

    @property
    def version(self) -> str | None:
        """Of the package; None if it is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


def groups(model: nn.Module, **options: object) -> list[dict[str, object]]:
    """Parameter groups in the GaLore family's form: the matrices with their options, then the rest."""
    matrices, rest = dense.split(model, MATRIX_ROLES)
    return [{"params": [m.parameter for m in matrices], **options}, {"params": [m.parameter for m in rest]}]


def with_adamw(model: nn.Module, optimizer: Callable[[list[Tensor]], Optimizer]) -> list[Optimizer]:
    """Theirs on the matrices, torch's fastest AdamW on the rest."""
    matrices, rest = groups(model)
    return [optimizer(matrices["params"]), torch.optim.AdamW([rest], fused=True)]


def fira(model: nn.Module, rank: int) -> list[Optimizer]:
    from fira import FiraAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "alpha": 0.25, "proj_type": "std"}
    return [FiraAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)]


def galore(model: nn.Module, rank: int) -> list[Optimizer]:
    from galore_torch import GaLoreAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "scale": 0.25, "proj_type": "std"}
    return [GaLoreAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)]


def galore8bit(model: nn.Module, rank: int) -> list[Optimizer]:
    """With what it needs to run as its authors meant it: no GPU to wait for, no clipping that bitsandbytes 0.50 misreads."""
    from galore_torch import GaLoreAdamW8bit

    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda device=None: None
    options = {"rank": rank, "update_proj_gap": NEVER, "scale": 0.25, "proj_type": "std"}
    optimizer = GaLoreAdamW8bit(groups(model, **options), lr=1e-2)
    optimizer.args.max_unorm, optimizer.args.skip_zeros = 0.0, False
    return [optimizer]


def apollo(model: nn.Module, rank: int) -> list[Optimizer]:
    from apollo_torch import APOLLOAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "scale": 1, "proj": "random", "proj_type": "std", "scale_type": "channel"}
    return [APOLLOAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)]


def flora(model: nn.Module, rank: int) -> list[Optimizer]:
    from flora_opt import Flora as Package

    return with_adamw(model, lambda matrices: Package(matrices, lr=1e-2, rank=rank, kappa=NEVER, beta1=0.9))


def adam_mini(model: nn.Module, rank: int) -> list[Optimizer]:
    """It reads the kind of a matrix off its name."""
    from adam_mini import Adam_mini

    names = {f"attn.{letter}": f"{letter}_proj" for letter in "qkvo"} | {"head": "lm_head"}
    named = [(names.get(role, role), parameter) for _, role, parameter in named_roles(model)]
    shape = model.shape
    with contextlib.redirect_stdout(io.StringIO()):
        return [Adam_mini(named, lr=1e-3, dim=shape.hidden, n_heads=shape.heads, verbose=False)]


def badam(model: nn.Module, rank: int) -> list[Optimizer]:
    from badam import BlockOptimizer

    base = torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # that the weights are fp32
        return [BlockOptimizer(base, list(model.named_parameters()), switch_block_every=NEVER, verbose=0)]


def soap(model: nn.Module, rank: int) -> list[Optimizer]:
    from pytorch_optimizer import SOAP

    return with_adamw(model, lambda matrices: SOAP(matrices, lr=3e-3, weight_decay=0.0, precondition_frequency=NEVER))


def lion(model: nn.Module, rank: int) -> list[Optimizer]:
    from pytorch_optimizer import Lion as Package

    return [Package(model.parameters())]


def schedule_free(model: nn.Module, rank: int) -> list[Optimizer]:
    from pytorch_optimizer import ScheduleFreeAdamW

    return [ScheduleFreeAdamW(model.parameters())]


def adafactor(model: nn.Module, rank: int) -> list[Optimizer]:
    from transformers import Adafactor as Package

    return [Package(model.parameters(), lr=1e-3, scale_parameter=False, relative_step=False)]


def adam8bit(model: nn.Module, rank: int) -> list[Optimizer]:
    from bitsandbytes.optim import AdamW8bit

    return [AdamW8bit(model.parameters(), weight_decay=0.0)]


def muon(model: nn.Module, rank: int) -> list[Optimizer]:
    return with_adamw(model, lambda matrices: torch.optim.Muon(matrices, weight_decay=0.0))


def nadam(model: nn.Module, rank: int) -> list[Optimizer]:
    return [torch.optim.NAdam(model.parameters(), lr=1e-3, weight_decay=0.01, decoupled_weight_decay=True)]


RACES = (
    Race("fira", "fira", 2.5, lambda r: Fira(rank=r, gap=NEVER), fira),
    Race("galore", "galore-torch", 1.8, lambda r: Galore(rank=r, gap=NEVER), galore),
    Race("apollo", "apollo-torch", 1.8, lambda r: Apollo(rank=r, gap=NEVER), apollo),
    Race("flora", "flora-opt", 1.0, lambda r: Flora(rank=r, kappa=NEVER), flora),
    Race("adam_mini", "adam-mini", 1.0, lambda r: AdamMini(), adam_mini),
    Race("badam", "badam", 1.0, lambda r: Badam(gap=NEVER), badam),
    Race("soap", "pytorch_optimizer", 1.0, lambda r: Soap(frequency=NEVER), soap, slow=True),
    Race("lion", "pytorch_optimizer", 1.0, lambda r: Lion(), lion),
    Race("schedule_free", "pytorch_optimizer", 1.0, lambda r: ScheduleFree(), schedule_free),
    Race("adafactor", "transformers", 1.0, lambda r: Adafactor(), adafactor),
    Race("adam8bit", "bitsandbytes", 1.0, lambda r: Adam8bit(), adam8bit, slow=True),
    Race("galore8bit", "galore-torch", 1.0, lambda r: Galore8bit(rank=r, gap=NEVER), galore8bit, slow=True),
    Race("muon", "torch", SAME_KERNEL, lambda r: Muon(), muon, slow=True),
    Race("nadamw", "torch", 1.0, lambda r: Nadamw(momentum_decay=0.004), nadam),
    Race("adam", "torch", SAME_KERNEL, lambda r: Adam(), lambda model, r: [torch.optim.Adam(model.parameters(), fused=True)]),
    Race("adamw", "torch", SAME_KERNEL, lambda r: Adamw(), lambda model, r: [torch.optim.AdamW(model.parameters(), fused=True)]),
    Race("sgd", "torch", SAME_KERNEL, lambda r: Sgd(), lambda model, r: [torch.optim.SGD(model.parameters(), momentum=0.9, fused=True)]),
)
