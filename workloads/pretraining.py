"""Language-model pre-training: the published LLaMA ladder on C4, and CPU-sized members of the same family.

The ladder is the recipe that GaLore, Fira, APOLLO and their descendants share: C4 `en`, t5-base, documents padded or cut
to 256 tokens, 512 of them per step, weights in bf16. Its targets are GaLore's full-rank perplexities (arXiv 2403.03507,
Table 2), in that family's convention: the mean loss over N evaluation batches is divided by N + 1 (`legacy_ppl`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workloads import progress
from workloads.architecture import Architecture
from workloads.base import Batch, Budget, Data, Precision, Target, Workload, require_counts
from workloads.targets import load_target

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from workloads.batches import Tokens


@dataclass(frozen=True, kw_only=True)
class PretrainingWorkload(Workload):
    """Next-token prediction by a LLaMA decoder."""

    model: Architecture
    data: str
    """`stdlib` (embedded), the name of prepared data, or their folder."""
    tokenizer: str | None
    """Short name of the tokenizer that the data must have; None takes the data's."""
    layout: str | None
    """`packed` or `padded`; None takes the data's."""
    validation_tokens: int
    """Loss-bearing tokens of the validation set: the first so many."""
    legacy_sequences: int
    """Sequences in one evaluation batch of the published protocol, over all its devices: what N counts in `legacy_ppl`."""
    loss_chunk: int | None = None
    """Tokens whose logits are alive at a time; None keeps those of a whole micro-batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "validation_tokens", "legacy_sequences", "loss_chunk")

    def check(self) -> None:
        super().check()
        self.model.check()

    def build(self, seed: int, device: torch.device | str) -> nn.Module:
        import torch

        from workloads.llama import Llama, initialise

        with torch.device(device):
            model = Llama(self.architecture(), positions=self.batch.length, checkpointing=self.checkpointing)
        initialise(model, seed)
        return model.to(torch.bfloat16) if self.precision.weights == "bf16" else model

    def architecture(self) -> Architecture:
        """The model's shape with its vocabulary; if that follows the data's tokenizer, a multiple of 64 that holds it.

        Raises:
            ValueError: the vocabulary follows data that are not prepared.
        """
        if self.model.vocab is not None:
            return self.model
        from workloads.prepared import find_data
        from workloads.shards import read_meta

        folder = find_data(self.data, tokenizer=self.tokenizer, layout=self.layout, length=self.batch.length)
        vocab = read_meta(folder).tokenizer["vocab"]
        return replace(self.model, vocab=64 * math.ceil(vocab / 64))

    def open_data(self) -> Data:
        from workloads.prepared import open_tokens

        vocab = self.architecture().vocab
        return open_tokens(self.data, length=self.batch.length, tokenizer=self.tokenizer, layout=self.layout, vocab=vocab)

    def loss(self, model: nn.Module, batch: Tokens) -> tuple[Tensor, int]:
        with self.precision.region(batch.inputs_bt.device.type):
            return model(batch.inputs_bt, batch.targets_bt, self.loss_chunk), batch.target_count

    def compilable(self, model: nn.Module) -> Iterable[nn.Module]:
        from workloads.llama import Llama

        return (*super().compilable(model), *([model.criterion] if isinstance(model, Llama) else []))

    def evaluate(self, model: nn.Module, data: Data, device: torch.device | str) -> dict[str, float]:
        """`val_loss` (exact mean, nats per token), `val_ppl`, and `legacy_ppl`, which has N batches' loss divided by N + 1."""
        import torch

        from workloads.batches import TokenData, to_batch

        assert isinstance(data, TokenData)
        rows, count = data.validation_rows(self.validation_tokens)
        size = self.batch.micro or self.batch.sequences
        total = torch.zeros((), dtype=torch.float64, device=device)
        training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(rows), size):
                total += self.loss(model, to_batch(data.validation.read(rows[start : start + size]), device))[0]
                progress.tell(min(start + size, len(rows)), len(rows))
        model.train(training)
        loss = float(total) / count
        batches = math.ceil(len(rows) / self.legacy_sequences)
        return {"val_loss": loss, "val_ppl": _exp(loss), "legacy_ppl": _exp(loss * batches / (batches + 1))}

    def example(self, device: torch.device | str) -> Tokens:
        import torch

        from workloads.batches import Tokens

        sequences = self.batch.micro or self.batch.sequences
        tokens_bt = torch.zeros(sequences, self.batch.length, dtype=torch.int64, device=device)
        return Tokens(tokens_bt, tokens_bt, tokens_bt.numel())

    def adapted(self, changed: frozenset[str]) -> PretrainingWorkload:
        """On other data: their tokenizer and layout, a vocabulary that follows. A changed task has no target unless one is given."""
        out: PretrainingWorkload = self
        if "data" in changed:
            out = replace(
                out,
                tokenizer=self.tokenizer if "tokenizer" in changed else None,
                layout=self.layout if "layout" in changed else None,
                model=self.model if "model.vocab" in changed else replace(self.model, vocab=None),
            )
        execution = {"batch.micro", "checkpointing", "loss_chunk", "compile"}
        harmless = {"steps", "seconds", "evaluate_every", "diverged_above", "hardware", *execution}
        keeps_target = "target" in changed or changed <= harmless
        return out if keeps_target else replace(out, target=None)


def _exp(loss: float) -> float:
    return math.inf if loss > 700 else math.exp(loss)  # beyond it math.exp raises


C4_PUBLISHED = "GaLore (arXiv 2403.03507) Table 2, full rank; loss over N batches divided by N + 1, Adam at one learning rate in pure bf16"


def _rung(
    name: str, shape: tuple[int, int, int, int], perplexity: float | None, *, steps: int, hours: float, micro: int, evaluated: int, on: str
) -> PretrainingWorkload:
    """A rung of the published ladder; `shape` is hidden size, MLP width, layers, heads; `evaluated` the sequences per evaluation batch.

    The hours are about twice what Adam needs at a third of an A100's peak.
    """
    hidden, mlp, layers, heads = shape
    target = None if perplexity is None else Target(metric="legacy_ppl", value=perplexity, provisional=True, source=C4_PUBLISHED)
    return PretrainingWorkload(
        name=name,
        model=Architecture(hidden=hidden, mlp=mlp, layers=layers, heads=heads, vocab=32_000),
        batch=Batch(sequences=512, length=256, micro=micro),
        budget=Budget(steps=steps, seconds=3600 * hours),
        target=target,
        evaluate_every=1000,
        hardware=on,
        precision=Precision(weights="bf16"),
        data="c4",
        tokenizer="t5-base",
        layout="padded",
        validation_tokens=10_000_000,
        legacy_sequences=evaluated,
        loss_chunk=4096,  # its logits and their gradient take 0.8 GB in bf16 and fp32; those of 32,768 tokens would take 6.3
    )


def _cpu(name: str, shape: tuple[int, int, int, int], batch: Batch, budget: Budget, every: int, validation: int) -> PretrainingWorkload:
    """A CPU-sized member: bytes of the embedded corpus, fp32, and the initialisation that small models need."""
    hidden, mlp, layers, heads = shape
    return PretrainingWorkload(
        name=name,
        model=Architecture(hidden=hidden, mlp=mlp, layers=layers, heads=heads, vocab=256, init="fan_in"),
        batch=batch,
        budget=budget,
        target=load_target(name),
        evaluate_every=every,
        hardware="cpu",
        data="stdlib",
        tokenizer="bytes",
        layout="packed",
        validation_tokens=validation,
        legacy_sequences=batch.sequences,
    )


def _with_variants(base: PretrainingWorkload) -> tuple[PretrainingWorkload, ...]:
    """The workload and what changes one thing of it each; the tokens per step stay the same."""
    model, batch = base.model, base.batch
    wide = replace(model, hidden=2 * model.hidden, mlp=2 * model.mlp, heads=2 * model.heads)
    changes: dict[str, dict[str, Any]] = {
        "gelu": {"model": replace(model, activation="gelu")},
        "postnorm": {"model": replace(model, norm="post")},
        "tied": {"model": replace(model, tied=True)},
        "long": {"batch": replace(batch, sequences=batch.sequences // 2, length=2 * batch.length, micro=batch.micro and batch.micro // 2)},
        "wide": {"model": wide},
    }
    names = {f"{base.name}_{suffix}": change for suffix, change in changes.items()}
    return base, *(replace(base, name=name, variant_of=base.name, target=load_target(name), **change) for name, change in names.items())


# No full-rank perplexity is published for 7B; N there and elsewhere follows the released scripts' devices times batch.
BASES = (
    _cpu("llama_nano", (128, 352, 4, 4), Batch(sequences=8, length=128), Budget(steps=240, seconds=300), 10, 4096),
    _cpu("llama_micro", (192, 528, 6, 6), Batch(sequences=8, length=128), Budget(steps=360, seconds=1200), 15, 4096),
    _rung("llama_60m", (512, 1376, 8, 8), 34.06, steps=10_000, hours=2, micro=128, evaluated=256, on="gpu-80gb"),
    _rung("llama_130m", (768, 2048, 12, 12), 25.08, steps=20_000, hours=9, micro=128, evaluated=512, on="gpu-80gb"),
    _rung("llama_350m", (1024, 2736, 24, 16), 18.80, steps=60_000, hours=80, micro=64, evaluated=512, on="gpu-80gb"),
    _rung("llama_1b", (2048, 5461, 24, 32), 15.56, steps=100_000, hours=60, micro=32, evaluated=512, on="gpu-8x80gb"),
    _rung("llama_7b", (4096, 11_008, 32, 32), None, steps=150_000, hours=500, micro=8, evaluated=64, on="gpu-8x80gb"),
)

WORKLOADS: tuple[PretrainingWorkload, ...] = tuple(workload for base in BASES for workload in _with_variants(base))
