"""Adapters by the peft library, one method a time: LoRA, rsLoRA, DoRA, PiSSA, OLoRA, LoRA+, AdaLoRA, RandLoRA, MiSS, Bone, VeRA, IA3.

Library: huggingface/peft 0.21 (`pip install slimperf[finetune]`), which holds the definitions; here are the choice, the roles and Adam.

    lora, rslora  Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732 (scale alpha/sqrt r)
    dora          Liu et al. 2024, arXiv 2402.09353: W = g V / ||V||, LoRA on V
    pissa, olora  Meng et al. 2024, arXiv 2404.02948; Buyukakyuz 2024, arXiv 2406.01775: factors from the SVD or QR of W
    lora_plus     Hayou et al. 2024, arXiv 2402.12354: B learns `ratio` times faster than A
    adalora       Zhang et al. 2023, arXiv 2303.10512: P diag(l) Q, whose l are masked down to a budget
    randlora      Albert et al. 2025, arXiv 2502.00987: trained diagonals between shared random bases; a smaller rank has more parameters
    miss, bone    Kang et al. 2024, arXiv 2409.15371: one r x out matrix on folded inputs; bone also multiplies
                  it by W's blocks, which needs sides divisible by r
    vera          Kopiczko et al. 2023, arXiv 2310.11454: trained vectors around one shared random pair
    ia3           Liu et al. 2022, arXiv 2205.05638: trained rescaling of keys, values and MLP inputs; the paper's
                  `matrices` are attn.k, attn.v, mlp.down

Memory: twice what the method trains and a step counter for each tensor: for the LoRA forms 2r(m+n) + 2 (the formula); for the
others `slimperf memory` counts it, as theirs depends on which side is the input. AdaLoRA adds its importance averages. Defaults:
LLM-Adapters' fine-tuning (r 32, alpha 64, lr 3e-4). Traps: everything else is frozen unless `rest: train`; AdaLoRA's orthogonality
penalty lives in peft's own forward pass and is added here to the gradient; PiSSA and OLoRA change W itself.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from submissions import adapters, engine
from submissions.adapters import AdapterSubmission
from submissions.base import Training, named_roles, require
from submissions.engine import Named

IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What AdaLoRA keeps of each factor: its sensitivity, that one's average, and the average of its deviation."""
Method = Literal["lora", "rslora", "dora", "pissa", "olora", "lora_plus", "adalora", "randlora", "miss", "bone", "vera", "ia3"]


@dataclass(frozen=True, kw_only=True)
class Peft(AdapterSubmission):
    """An adapter of the peft library."""

    method: Method = "lora"
    """Which one."""
    lr: float = 3e-4
    """Peak learning rate."""
    rest: Literal["train", "freeze"] = "freeze"
    """What becomes of embedding, head and norms."""
    rank: int = 32
    """r; AdaLoRA ends with it on average."""
    alpha: float = 64.0
    """Numerator of the scale, where the method has one (RandLoRA's own default is 20 r)."""
    dropout: float = 0.0
    """Probability that an input of the adapter is dropped in training."""
    ratio: float = 16.0
    """Learning rate of B over that of A (lora_plus)."""
    init_rank: int = 48
    """Rank before the budget shrinks (adalora)."""
    start: float = 0.1
    """Share of the steps before the budget shrinks (adalora)."""
    end: float = 0.5
    """Share of the steps after it has shrunk (adalora)."""
    every: int = 10
    """Updates from one allocation to the next (adalora)."""
    orthogonality: float = 0.5
    """Weight of the penalty on P^T P - I and Q Q^T - I (adalora); the library's default."""

    paper: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685 and successors"
    memory: ClassVar[str] = "2*rank*(m + n) + 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "an integer of at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")
        require(self.ratio > 0, "ratio", self.ratio, "a positive number")
        require(self.init_rank >= self.rank or self.method != "adalora", "init_rank", self.init_rank, f"at least the rank, {self.rank}")
        require(0 <= self.start and self.start + self.end < 1, "start", self.start, "start + end below 1")

    def bound(self) -> str | None:
        return "method = lora_plus is a ratio of two learning rates" if self.method == "lora_plus" else None

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        library = imported()
        roles = {name: str(module.role) for name, module in model.named_modules() if getattr(module, "role", None) in self.matrices}
        if not roles:
            present = ", ".join(sorted({role for _, role, _ in named_roles(model)}))
            raise ValueError(f"matrices = {self.matrices!r}: no module of the model has one of these roles; it has {present}")
        gradients = {
            parameter: parameter.requires_grad for name, parameter in model.named_parameters() if name.rpartition(".")[0] not in roles
        }
        config = self.config(library, roles, seed, meta=next(model.parameters()).is_meta)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(engine.seed_of(seed, "peft"))  # the library draws from the global generator
            tuner = library.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, "default")
        model.__dict__["peft_tuner"] = tuner  # not a submodule: it holds the model
        for name, role in roles.items():
            for part, child in model.get_submodule(name).named_children():
                for inner in (child, *child.children()):
                    if part != "base_layer":
                        inner.role = f"{role}.{part}"  # type: ignore[assignment]  # modules take any attribute
                    if part == "ranknum":  # a constant that the library unfreezes on the meta device
                        inner.requires_grad_(False)
        for parameter, trained in gradients.items():
            parameter.requires_grad_(trained and self.rest == "train")
        return model

    def config(self, library: Any, roles: dict[str, str], seed: int, *, meta: bool) -> Any:
        """The library's configuration. On the meta device there is no W to decompose."""
        common = {"target_modules": list(roles)}
        seed = engine.seed_of(seed, "peft bases") % 2**31
        if self.method in ("lora", "rslora", "dora", "pissa", "olora", "lora_plus"):
            start = self.method if self.method in ("pissa", "olora") and not meta else True
            return library.LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                use_rslora=self.method == "rslora",
                use_dora=self.method == "dora",
                init_lora_weights=start,
                **common,
            )
        if self.method == "adalora":
            ranks = {"target_r": self.rank, "init_r": self.init_rank, "deltaT": self.every, "total_step": 1_000_000_000, "tfinal": 1}
            return library.AdaLoraConfig(lora_alpha=self.alpha, lora_dropout=self.dropout, **ranks, **common)
        if self.method == "randlora":
            return library.RandLoraConfig(
                r=self.rank, randlora_alpha=self.alpha, randlora_dropout=self.dropout, projection_prng_key=seed, **common
            )
        if self.method in ("miss", "bone"):
            return library.MissConfig(
                r=self.rank, miss_dropout=self.dropout, init_weights="bat" if self.method == "bone" else True, **common
            )
        if self.method == "vera":
            return library.VeraConfig(r=self.rank, vera_dropout=self.dropout, projection_prng_key=seed, **common)
        return library.IA3Config(feedforward_modules=[name for name, role in roles.items() if role == "mlp.down"], **common)

    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        if self.method != "lora_plus":
            return super().optimizers(model, seed)
        factors, others = adapters.split(model, self.matrices)
        fast = [member for member in factors if "lora_B" in member.name]
        slow = [member for member in factors if "lora_B" not in member.name]
        groups: list[tuple[list[Named], float]] = [(slow, self.lr), (fast, self.lr * self.ratio), (others, self.dense_lr or self.lr)]
        return [self.adam(group, lr, seed) for group, lr in groups if group]

    @torch.no_grad()
    def begin(self, training: Training) -> None:
        if self.method == "adalora":
            parameters = training.model.__dict__["peft_tuner"].model.named_parameters()
            factors = {name: p for name, p in parameters if "lora_" in name}
            training.state.update({f"{kind}/{name}": torch.zeros_like(p) for kind in IMPORTANCE for name, p in factors.items()})

    def before_step(self, training: Training) -> None:
        if self.dropout:
            adapters.seed_dropout(training)

    def train_step(self, training: Training, batch: Any) -> Tensor:
        loss = training.backward(batch)
        if self.method == "adalora" and self.orthogonality:
            factors = [p for name, p in training.model.named_parameters() if "lora_A" in name or "lora_B" in name]
            grams = [p @ p.T if p.shape[0] < p.shape[1] else p.T @ p for p in factors]
            away = torch.stack([(gram - torch.eye(len(gram)).to(gram)).norm() for gram in grams])
            (self.orthogonality * away.mean()).backward()  # type: ignore[no-untyped-call]  # in torch
        return loss

    def after_step(self, training: Training) -> None:
        if self.method == "adalora":
            allocate(self, training)


def allocate(rule: Peft, training: Training) -> None:
    """One step of AdaLoRA's budget. The library keeps its averages in plain dictionaries; between updates they are in the state."""
    tuner: Any = training.model.__dict__["peft_tuner"]
    allocator, config, state = tuner.rankallocator, tuner.peft_config["default"], training.state
    config.total_step, config.tinit, config.tfinal = training.steps, round(rule.start * training.steps), round(rule.end * training.steps)
    for kind in IMPORTANCE:
        setattr(allocator, kind, {key.split("/", 1)[1]: value for key, value in state.items() if key.startswith(f"{kind}/")})
    masks = {key.split("/", 1)[1]: value.tolist() for key, value in state.items() if key.startswith("mask/")}
    config.rank_pattern = masks
    allocator.set_total_step(training.steps)
    tuner.update_and_allocate(training.t)
    state.clear()
    for kind in IMPORTANCE:
        state.update({f"{kind}/{name}": value for name, value in getattr(allocator, kind).items()})
    state.update({f"mask/{name}": torch.tensor(mask) for name, mask in (config.rank_pattern or {}).items()})


def imported() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # packages that the library only tries to find complain of what they lack
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ValueError(f"the submission `peft` needs the peft library ({error}): pip install 'slimperf[finetune]'") from None
    finally:
        logging.disable(silenced)
