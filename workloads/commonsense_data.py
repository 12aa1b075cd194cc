"""Fine-tuning batches and test questions in tokens; the batch of a step depends on (seed, step) alone.

Shape legend: b sequences, t positions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.base import Batch, Data
from workloads.batches import IGNORED, Int, Tokens, shuffled, some_targets
from workloads.commonsense_files import Index, test_examples, train_examples, verify
from workloads.commonsense_tasks import LEAD, TASKS, Example, Template

if TYPE_CHECKING:
    import torch

    from workloads.commonsense_scoring import Question
    from workloads.tokenizers import Tokenizer

ROUND = 8
"""Lengths of batches are multiples of it."""


class CommonsenseData(Data):
    """Prepared task files, read with one tokenizer and template."""

    def __init__(
        self,
        folder: Path,
        index: Index,
        tokenizer: Tokenizer,
        *,
        template: Template,
        prompt_loss: bool,
        held_out: int,
        base: dict[str, Any],
    ) -> None:
        """`held_out`: training examples kept for validation, the same for every seed; `base` says what model is trained."""
        verify(folder, index)
        self.folder, self.index, self.tokenizer, self.template, self.prompt_loss, self.base = (
            folder,
            index,
            tokenizer,
            template,
            prompt_loss,
            base,
        )
        examples = train_examples(folder, index)
        if len(examples) <= held_out:
            raise ValueError(f"{folder} has {len(examples)} training examples, expected more than the {held_out} held out for validation")
        order = shuffled(np.arange(len(examples), dtype=np.int64), len(examples), "commonsense validation")
        self.validation = [examples[place] for place in order[:held_out]]
        self.train = [examples[place] for place in np.sort(order[held_out:])]

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.folder.name,
            "sha256": self.index.sha256,
            "tokenizer": self.tokenizer.name,
            "layout": f"{self.template}, loss on {'all' if self.prompt_loss else 'outputs'}",
            "sequences": len(self.train),
            "missing": self.index.missing,
            **self.base,
        }

    def micro_batches(
        self, seed: int, step: int, batch: Batch, device: torch.device | str, *, rank: int = 0, world: int = 1
    ) -> Iterator[Tokens]:
        share, rest = divmod(batch.sequences, world)
        if rest:
            raise ValueError(f"{batch.sequences} sequences per step cannot be shared by {world} devices: use a number that divides them")
        pairs = self._global_batch(seed, step, batch)[rank * share : (rank + 1) * share]
        micro = batch.micro or share
        for start in range(0, share, micro):
            yield collated(pairs[start : start + micro], device)

    def target_tokens(self, seed: int, step: int, batch: Batch) -> int:
        return some_targets(sum(int((targets >= 0).sum()) for _, targets in self._global_batch(seed, step, batch)), step, batch)

    def held_out(self, length: int) -> list[tuple[Int, Int]]:
        """Inputs and targets of the validation examples.

        Raises:
            ValueError: none has a target.
        """
        pairs = self.encode(self.validation, length)
        if not any((targets >= 0).any() for _, targets in pairs):
            raise ValueError(
                f"batch.length = {length} cuts all {len(pairs)} held-out examples before their answers, which alone bear loss: "
                "expected more tokens, or prompt_loss = true"
            )
        return pairs

    def encode(self, examples: Sequence[Example], length: int) -> list[tuple[Int, Int]]:
        """Inputs and targets, each cut at `length` tokens from the right, as published; what is whole ends with the end token."""
        prompts = [example.prompt(self.template) for example in examples]
        wholes = self._ids([prompt + example.output for prompt, example in zip(prompts, examples, strict=True)], end=True)
        sizes = [0] * len(examples) if self.prompt_loss else [len(ids) for ids in self._ids(prompts)]
        found = []
        for ids, size in zip(wholes, sizes, strict=True):
            kept = ids[:length]
            targets = kept[1:].copy()
            targets[: max(0, size - 1)] = IGNORED
            found.append((kept[:-1], targets))
        return found

    @functools.lru_cache(maxsize=64)  # noqa: B019  # a data object lives as long as the trial
    def questions(self, task: str, most: int | None) -> tuple[list[Example], list[Question]]:
        """The first `most` test questions in a fixed shuffled order (all if None), as text and in tokens."""
        from workloads.commonsense_scoring import Question

        examples = test_examples(self.folder, self.index, task)
        if most is not None and most < len(examples):
            order = shuffled(np.arange(most, dtype=np.int64), len(examples), f"commonsense test {task}")
            examples = [examples[place] for place in order]
        prompts = [example.prompt(self.template) + LEAD.rstrip() for example in examples]
        starts = self._ids(prompts)
        wholes = iter(
            self._ids([f"{prompt} {option}" for prompt, example in zip(prompts, examples, strict=True) for option in example.options])
        )
        found = []
        for start, example in zip(starts, examples, strict=True):
            answers = [next(wholes) for _ in example.options]
            # A tokenizer may join the last letters of the question with the option: what all share is the question.
            shared = min(_shared(start, answer) for answer in answers)
            found.append(Question(answers[0][:shared], tuple(answer[shared:] for answer in answers)))
        return examples, found

    def prompts(self, examples: Sequence[Example]) -> list[Int]:
        """The questions alone, to be answered by generation."""
        return self._ids([example.prompt(self.template) for example in examples])

    def tasks(self, chosen: Sequence[str]) -> list[str]:
        """The tasks that there are tests of: all in the published order, or the chosen ones."""
        return list(chosen) or [task for task in TASKS if task in self.index.test]

    @functools.lru_cache(maxsize=4)  # noqa: B019  # the micro-batches and their count are asked for one after the other
    def _global_batch(self, seed: int, step: int, batch: Batch) -> list[tuple[Int, Int]]:
        count = len(self.train)
        places = np.arange((step - 1) * batch.sequences, step * batch.sequences, dtype=np.int64)
        epochs = places // count
        rows = np.concatenate([shuffled(places[epochs == epoch] % count, count, f"{seed} order {epoch}") for epoch in np.unique(epochs)])
        return self.encode([self.train[row] for row in rows], batch.length)

    def _ids(self, texts: list[str], *, end: bool = False) -> list[Int]:
        begin = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        ids = (np.concatenate([np.array(begin, dtype=np.int64), ids.astype(np.int64)]) for ids in self.tokenizer.encode(texts))
        return [each if end else each[:-1] for each in ids]


def collated(pairs: Sequence[tuple[Int, Int]], device: torch.device | str) -> Tokens:
    """A micro-batch, padded on the right to its longest sequence."""
    import torch

    longest = max(len(inputs) for inputs, _ in pairs)
    width = -(-longest // ROUND) * ROUND
    both = np.stack([np.zeros((len(pairs), width), dtype=np.int64), np.full((len(pairs), width), IGNORED, dtype=np.int64)])
    for row, (inputs, targets) in enumerate(pairs):
        both[0, row, : len(inputs)], both[1, row, : len(targets)] = inputs, targets
    pair = torch.from_numpy(both)
    if torch.device(device).type == "cuda":
        pair = pair.pin_memory().to(device, non_blocking=True)
    return Tokens(pair[0], pair[1], int((both[1] >= 0).sum()))


def _shared(left: Int, right: Int) -> int:
    """Length of the common beginning."""
    size = min(len(left), len(right) - 1)
    differs = np.flatnonzero(left[:size] != right[:size])
    return int(differs[0]) if len(differs) else size
