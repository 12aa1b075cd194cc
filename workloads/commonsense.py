"""Commonsense fine-tuning by the protocol of LLM-Adapters: eight question-answering tasks, one mixture to train on.

Hu et al. 2023, arXiv 2304.01933; GaLore, Fira (arXiv 2410.01623) and others report on it. Two kinds: `adapters` freezes the base, so that
a submission trains what it adds (the released Fira and GaLore rows optimise LoRA factors this way), and `full` trains every weight.

Published settings, all of them fields: 3 epochs of 170k examples in batches of 16 (4 at a time), the first 256 tokens of each, loss on the
question's tokens too, 120 examples held out. Departures: the order is seeded (the released one is not); the loss is a mean over the tokens
of the whole batch (released: of micro-batch means); answers are judged by likelihood unless `scoring = generate` (released: 4 beams, 32
new tokens, first option string found), because a text that does not parse counts as wrong there, whatever the model knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from workloads import progress
from workloads.architecture import Architecture
from workloads.base import Batch, Budget, Data, Precision, Target, Workload, require, require_counts
from workloads.commonsense_tasks import TASKS, Template
from workloads.targets import load_target

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from workloads.batches import Tokens
    from workloads.commonsense_data import CommonsenseData

CPU_TOKENS = 1024
"""Most tokens that a CPU scores at once: what stays in its caches. Measured: 8192 take half as long again."""
POSITIONS = 4096
"""Rows of the rotary tables: more than any test question, which is never cut."""


@dataclass(frozen=True, kw_only=True)
class CommonsenseWorkload(Workload):
    """Fine-tuning of a LLaMA checkpoint on questions with options."""

    kind: Literal["adapters", "full"]
    """`adapters`: the base is frozen. `full`: every weight trains."""
    checkpoint: str
    """A folder with a LLaMA checkpoint, an id of the Hugging Face hub, or `made:NAME`, a base of our own."""
    model: Architecture | None = None
    """Shape of the checkpoint, for predictions without it; None reads its config.json."""
    data: str = "commonsense"
    """Name or folder of prepared commonsense data."""
    tokenizer: str | None = None
    """A tokenizer.json or `bytes`; None takes the checkpoint's own."""
    template: Template = "alpaca"
    """Text around a question."""
    prompt_loss: bool = True
    """Loss on the tokens of the question too (`train_on_inputs`)."""
    held_out: int = 120
    """Training examples kept for `val_loss`."""
    tasks: tuple[str, ...] = ()
    """Tasks to be tested on; empty takes all whose tests are there."""
    scoring: Literal["likelihood", "generate"] = "likelihood"
    """The option of the highest log-likelihood per token, or the first one in a generated text."""
    grid_examples: int | None = 100
    """Questions of each task at every evaluation, always the same ones; None takes all."""
    test_examples: int | None = None
    """Questions of each task at the end of a trial; None takes all, 0 none."""
    scoring_tokens: int = 16_384
    """Tokens of questions that go through the model at once in evaluation; a CPU takes no more than `CPU_TOKENS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "held_out", "grid_examples", "scoring_tokens")
        require((self.test_examples or 0) >= 0, "test_examples", self.test_examples, "a whole number, 0 for none, or null for all")

    def check(self) -> None:
        super().check()
        require(self.batch.length >= 2, "batch.length", self.batch.length, "at least 2 tokens, one of which is predicted")
        if self.model is not None:
            self.model.check()

    def build(self, seed: int, device: torch.device | str) -> nn.Module:
        """The checkpoint; on the meta device the shape is enough. The base is the same for every seed."""
        import torch

        from workloads import commonsense_bases
        from workloads.llama import Llama

        with torch.device(device):
            if torch.device(device).type == "meta":
                shape = self.model or commonsense_bases.shape_of(self.checkpoint)
                model = Llama(shape, positions=POSITIONS, checkpointing=self.checkpointing)
            else:
                folder = commonsense_bases.locate(self.checkpoint)
                model = commonsense_bases.load_model(folder, positions=POSITIONS, checkpointing=self.checkpointing)
        model = model.to(torch.bfloat16 if self.precision.weights == "bf16" else torch.float32)
        model.requires_grad_(self.kind == "full")
        return model

    def open_data(self) -> Data:
        from workloads import checkpoints, commonsense_bases
        from workloads.commonsense_data import CommonsenseData
        from workloads.commonsense_files import find, read_index

        for name in self.tasks:
            if name not in TASKS:
                raise ValueError(f"tasks = {list(self.tasks)}: {name!r} is none of {', '.join(TASKS)}")
        folder = find(self.data)
        base = commonsense_bases.locate(self.checkpoint)
        shape = commonsense_bases.read_config(base)
        if self.model is not None and shape != self.model:
            raise ValueError(f"checkpoint {self.checkpoint} has the shape {shape}, expected {self.model}; for another one set model=null")
        checkpoints.check_weights(base, shape)
        data = CommonsenseData(
            folder,
            read_index(folder),
            commonsense_bases.open_tokenizer(base, self.tokenizer, shape.vocab),
            template=self.template,
            prompt_loss=self.prompt_loss,
            held_out=self.held_out,
            base=commonsense_bases.identity(base),
        )
        data.held_out(self.batch.length)
        for task in data.tasks(self.tasks):
            data.questions(task, self.grid_examples)
        return data

    def loss(self, model: nn.Module, batch: Tokens) -> tuple[Tensor, int]:
        from workloads.llama import summed_loss

        with self.precision.region(batch.inputs_bt.device.type):
            logits = model(batch.inputs_bt)
        return summed_loss(logits, batch.targets_bt), batch.target_count

    def evaluate(self, model: nn.Module, data: Data, device: torch.device | str) -> dict[str, float]:
        """`val_loss` of held-out examples (nats per token), and on a fixed part of the tests `accuracy` and its kin (see `answers`)."""
        return {"val_loss": self.validation_loss(model, data, device), **self.answers(model, data, device, self.grid_examples)}

    def conclude(self, model: nn.Module, data: Data, device: torch.device | str) -> dict[str, float]:
        """The same of the tests at the end, as `test_accuracy`, ..., with `test_count/TASK` and `test_chance/TASK`."""
        if self.test_examples == 0:
            return {}
        return {f"test_{name}": value for name, value in self.answers(model, data, device, self.test_examples, counts=True).items()}

    def validation_loss(self, model: nn.Module, data: Data, device: torch.device | str) -> float:
        """Mean loss of the held-out examples' tokens."""
        import torch

        from workloads import commonsense_answers
        from workloads.commonsense_data import collated

        pairs = sorted(_ours(data).held_out(self.batch.length), key=lambda pair: len(pair[0]))
        size = self.batch.micro or self.batch.sequences
        total, count = torch.zeros((), dtype=torch.float64, device=device), 0
        with commonsense_answers.evaluating(model):
            for start in range(0, len(pairs), size):
                loss, targets = self.loss(model, collated(pairs[start : start + size], device))
                total, count = total + loss, count + targets
                progress.tell(min(start + size, len(pairs)), len(pairs))
        return float(total) / count

    def answers(
        self, model: nn.Module, data: Data, device: torch.device | str, most: int | None, *, counts: bool = False
    ) -> dict[str, float]:
        """Means over tasks, and each task's own as `NAME/TASK`, over the first `most` questions of each (see commonsense_answers)."""
        from workloads import commonsense_answers

        found: dict[str, dict[str, float]] = {}
        on_cpu = str(device).startswith("cpu")
        tokens = min(self.scoring_tokens, CPU_TOKENS) if on_cpu else self.scoring_tokens
        judge = commonsense_answers.by_likelihood if self.scoring == "likelihood" else commonsense_answers.by_generation
        for task in _ours(data).tasks(self.tasks):
            with commonsense_answers.evaluating(model), self.precision.region(str(device).partition(":")[0]), progress.on(task):
                metrics = judge(model, _ours(data), device, task, most, tokens)
            for name, value in (metrics | (commonsense_answers.counts(_ours(data), task, most) if counts else {})).items():
                found.setdefault(name, {})[task] = value
        means = {name: commonsense_answers.mean(list(values.values())) for name, values in found.items() if name != "count"}
        return means | {f"{name}/{task}": value for name, values in found.items() for task, value in values.items()}

    def example(self, device: torch.device | str) -> Tokens:
        import torch

        from workloads.batches import Tokens

        sequences = self.batch.micro or self.batch.sequences
        tokens_bt = torch.zeros(sequences, self.batch.length - 1, dtype=torch.int64, device=device)
        return Tokens(tokens_bt, tokens_bt, tokens_bt.numel())

    def adapted(self, changed: frozenset[str]) -> CommonsenseWorkload:
        """On another checkpoint: its own shape and tokenizer. A changed task has no target unless one is given."""
        out: CommonsenseWorkload = self
        if "checkpoint" in changed:
            tokenizer = self.tokenizer if "tokenizer" in changed else None
            out = replace(out, tokenizer=tokenizer, model=None)
        execution = {"batch.micro", "checkpointing", "layerwise", "compile", "scoring_tokens"}
        harmless = {"steps", "seconds", "evaluate_every", "diverged_above", "hardware", "test_examples", *execution}
        keeps_target = "target" in changed or changed <= harmless
        return out if keeps_target else replace(out, target=None)


def _ours(data: Data) -> CommonsenseData:
    from workloads.commonsense_data import CommonsenseData

    assert isinstance(data, CommonsenseData)
    return data


LLAMA_7B = Architecture(hidden=4096, mlp=11_008, layers=32, heads=32, vocab=32_000)
PUBLISHED = {
    "adapters": (0.747, "LoRA of LLM-Adapters as quoted by Fira's authors; over eight tasks, generated and parsed; HellaSwag among them"),
    "full": (0.586, "`full rank` of Fira's authors; under LoRA, so probably mistuned; over eight tasks, generated and parsed"),
}


def _seven_b(kind: Literal["adapters", "full"]) -> CommonsenseWorkload:
    value, source = PUBLISHED[kind]
    return CommonsenseWorkload(
        name=f"commonsense_llama7b_{kind}",
        kind=kind,
        checkpoint="huggyllama/llama-7b",
        model=LLAMA_7B,
        batch=Batch(sequences=16, length=256, micro=4),
        budget=Budget(steps=31_900, seconds=3600 * (24 if kind == "adapters" else 48)),  # 3 epochs of 170,300 examples
        target=Target(metric="accuracy", value=value, mode="max", provisional=True, source=source),
        evaluate_every=1000,
        hardware="gpu-24gb" if kind == "adapters" else "gpu-80gb",
        precision=Precision(weights="bf16"),
        grid_examples=250,
    )


def _nano(kind: Literal["adapters", "full"]) -> CommonsenseWorkload:
    """Bytes and the plain template: 448 of them hold nineteen of twenty training examples to their answer.

    A base this small guesses at all tasks but boolq, whatever trains it: its race is for `val_loss`, and accuracies are beside.
    """
    name = f"commonsense_nano_{kind}"
    return CommonsenseWorkload(
        name=name,
        kind=kind,
        checkpoint="made:llama_nano",
        batch=Batch(sequences=8, length=448),
        budget=Budget(steps=120, seconds=3600.0),
        target=load_target(name),
        evaluate_every=20,
        hardware="cpu",
        template="plain",
        grid_examples=20,
        test_examples=100,
        scoring_tokens=8192,
    )


WORKLOADS = (_seven_b("adapters"), _seven_b("full"), _nano("adapters"), _nano("full"))
