"""How well a model answers a task's questions: by likelihood, or by what it generates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from workloads import commonsense_scoring
from workloads.commonsense_tasks import first_option

if TYPE_CHECKING:
    from torch import nn

    from workloads.commonsense_data import CommonsenseData

Metrics = dict[str, float]


def by_likelihood(model: nn.Module, data: CommonsenseData, device: torch.device | str, task: str, most: int | None, tokens: int) -> Metrics:
    """`accuracy` of the option with the highest log-likelihood per token, and `answer_nats`.

    The latter is the surprise at the right option, -log of its share of the options' likelihoods; guessing has the log of their number.
    """
    examples, questions = data.questions(task, most)
    sums = commonsense_scoring.likelihoods(commonsense_scoring.decoder(model), questions, device, tokens=tokens)
    right, nats = [], []
    for example, question, values in zip(examples, questions, sums, strict=True):
        answer = example.options.index(example.answer)
        means = [value / len(option) for value, option in zip(values, question.options, strict=True)]
        right.append(max(range(len(means)), key=means.__getitem__) == answer)
        best = max(values)
        nats.append(best + math.log(sum(math.exp(value - best) for value in values)) - values[answer])
    return {"accuracy": mean(right), "answer_nats": mean(nats)}


def by_generation(model: nn.Module, data: CommonsenseData, device: torch.device | str, task: str, most: int | None, tokens: int) -> Metrics:
    """`accuracy` of the first option in the generated text, and `parse_failure`, the share of texts that name none."""
    examples, _ = data.questions(task, most)
    decoder, prompts = commonsense_scoring.decoder(model), data.prompts(examples)
    texts = commonsense_scoring.generate(decoder, prompts, device, eos=data.tokenizer.eos, tokens=tokens)
    answers = [first_option(data.tokenizer.decode(ids), example.options) for ids, example in zip(texts, examples, strict=True)]
    right = [answer == example.answer for answer, example in zip(answers, examples, strict=True)]
    return {"accuracy": mean(right), "parse_failure": mean([answer is None for answer in answers])}


def counts(data: CommonsenseData, task: str, most: int | None) -> Metrics:
    """`count` of the questions, and `chance`, the accuracy of guessing among each one's options."""
    examples, _ = data.questions(task, most)
    return {"count": float(len(examples)), "chance": mean([1 / len(example.options) for example in examples])}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)
