"""Answers of a decoder to questions with options: by the options' likelihood, or generated and parsed as published.

Both batch questions of similar length and compute a question once, whatever follows it (`llama.Context`).
Shape legend: b questions, s tokens of the longest one, u tokens that follow, k beams, v vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from workloads import progress
from workloads.llama import Context, Llama

Ids = NDArray[np.int64]


class Question(NamedTuple):
    """A question in tokens."""

    prompt: Ids
    options: tuple[Ids, ...] = ()
    """What each option adds."""


@torch.no_grad()
def likelihoods(model: Llama, questions: Sequence[Question], device: torch.device | str, *, tokens: int) -> list[list[float]]:
    """Log-likelihood of each option of each question, in nats, summed over its tokens; `tokens` of prompts go through at once."""
    found: list[list[float]] = [[] for _ in questions]
    for rows in batched([len(question.prompt) for question in questions], tokens):
        for row, values in zip(rows, _option_sums(model, [questions[row] for row in rows], device), strict=True):
            found[row] = values
    return found


@torch.no_grad()
def generate(
    model: Llama, prompts: Sequence[Ids], device: torch.device | str, *, eos: int, beams: int = 4, length: int = 32, tokens: int
) -> list[list[int]]:
    """The best continuation of each prompt by beam search, its end token left out; scores are mean log-probabilities."""
    found: list[list[int]] = [[] for _ in prompts]
    for rows in batched([len(prompt) for prompt in prompts], max(1, tokens // beams)):
        for row, ids in zip(rows, _beam_search(model, [prompts[row] for row in rows], device, eos, beams, length), strict=True):
            found[row] = ids
    return found


def batched(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences of similar length, the longest first, so many that a batch holds about `tokens` with its padding."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while order:
        count = max(1, tokens // lengths[order[0]])
        yield order[:count]
        order = order[count:]
        progress.tell(len(lengths) - len(order), len(lengths))


def _read(model: Llama, prompts: Sequence[Ids], device: torch.device | str) -> tuple[Context, Tensor, Tensor]:
    """What the model keeps of the prompts, the log-probabilities of what comes next (b, v), and which of s are tokens (b, s)."""
    tokens_bs = pad_sequence([torch.from_numpy(prompt) for prompt in prompts], batch_first=True).to(device)
    sizes_b = torch.tensor([len(prompt) for prompt in prompts], device=device)
    context = Context()
    features_bsd = model.features(tokens_bs, context=context)
    last_bd = features_bsd[torch.arange(len(prompts), device=device), sizes_b - 1]
    seen_bs = torch.arange(tokens_bs.shape[1], device=device) < sizes_b[:, None]
    return context, model.head(last_bd).float().log_softmax(-1), seen_bs


def _option_sums(model: Llama, questions: Sequence[Question], device: torch.device | str) -> list[list[float]]:
    """All options of a question stand side by side in one row, and see the question and themselves only."""
    context, first_bv, seen_bs = _read(model, [question.prompt for question in questions], device)
    # The last token of an option is predicted and never read.
    rows = [np.concatenate([option[:-1] for option in question.options]) for question in questions]
    owners = [np.concatenate([np.full(len(option) - 1, number) for number, option in enumerate(q.options)]) for q in questions]
    places = [np.concatenate([np.arange(len(option) - 1) for option in question.options]) for question in questions]
    tokens_bu, owner_bu, place_bu = (
        pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in group], batch_first=True, padding_value=padding).to(device)
        for group, padding in ((rows, 0), (owners, -1), (places, 0))
    )
    logs_buv = first_bv[:, None, :0]
    if tokens_bu.shape[1]:
        own_buu = (owner_bu[:, :, None] == owner_bu[:, None, :]) & (place_bu[:, None, :] <= place_bu[:, :, None])
        context.mask_bts = torch.cat((seen_bs[:, None, :].expand(-1, tokens_bu.shape[1], -1), own_buu), dim=2)
        features_bud = model.features(tokens_bu, seen_bs.sum(1, keepdim=True) + place_bu, context)
        logs_buv = model.head(features_bud).float().log_softmax(-1)
    logs, first = logs_buv.cpu().double(), first_bv.cpu().double()
    return [_sums(question, first[number], logs[number]) for number, question in enumerate(questions)]


def _sums(question: Question, first_v: Tensor, logs_uv: Tensor) -> list[float]:
    found, start = [], 0
    for option in question.options:
        inner = logs_uv[start : start + len(option) - 1].gather(1, torch.from_numpy(option[1:].astype(np.int64))[:, None])
        found.append(float(first_v[int(option[0])] + inner.sum()))
        start += len(option) - 1
    return found


def _beam_search(model: Llama, prompts: Sequence[Ids], device: torch.device | str, eos: int, beams: int, length: int) -> list[list[int]]:
    context, first_bv, seen_bs = _read(model, prompts, device)
    context.select(torch.arange(len(prompts), device=device).repeat_interleave(beams))
    sizes_n1, seen_ns = (part.repeat_interleave(beams, dim=0) for part in (seen_bs.sum(1, keepdim=True), seen_bs))
    rows = [Beams(beams, eos) for _ in prompts]
    sums_bkv = first_bv[:, None, :]
    for step in range(1, length + 1):
        width, vocab = sums_bkv.shape[1:]
        sums, picks = sums_bkv.flatten(1).topk(min(2 * beams, width * vocab), dim=1)
        for row, values, chosen in zip(rows, sums.tolist(), picks.tolist(), strict=True):
            row.extend(values, [divmod(pick, vocab) for pick in chosen])
        if step == length or all(row.done(step) for row in rows):
            break
        context.select(torch.tensor([beams * number + parent for number, row in enumerate(rows) for parent in row.parents], device=device))
        newest_n1 = torch.tensor([text[-1] for row in rows for text in row.texts], device=device)[:, None]
        context.mask_bts = torch.cat((seen_ns, seen_ns.new_ones(len(seen_ns), step)), dim=1)[:, None, :]
        features_n1d = model.features(newest_n1, sizes_n1 + step - 1, context)
        logs_nv = model.head(features_n1d[:, 0]).float().log_softmax(-1)
        totals_bk = torch.tensor([row.sums for row in rows], device=device)
        sums_bkv = totals_bk[:, :, None] + logs_nv.unflatten(0, (len(rows), beams))
    return [row.best() for row in rows]


class Beams:
    """The beams of one prompt: those that go on, and those that ended, with their scores."""

    def __init__(self, count: int, eos: int) -> None:
        self.count, self.eos = count, eos
        self.texts: list[list[int]] = [[]]
        self.sums: list[float] = []
        self.parents: list[int] = []
        """Which beam each one that goes on came from."""
        self.ended: list[tuple[float, list[int]]] = []

    def extend(self, sums: list[float], picks: list[tuple[int, int]]) -> None:
        """Takes the (beam, token) candidates, best first: those with the end token end if they are among the first `count`."""
        before, self.texts, self.sums, self.parents = self.texts, [], [], []
        for rank, (total, (parent, token)) in enumerate(zip(sums, picks, strict=True)):
            if token == self.eos:
                if rank < self.count:
                    self.ended.append((total / (len(before[parent]) + 1), before[parent]))
            elif len(self.texts) < self.count:
                self.texts.append([*before[parent], token])
                self.sums.append(total)
                self.parents.append(parent)

    def done(self, step: int) -> bool:
        """Whether no beam that goes on can become one of the best, by the estimate of transformers (early_stopping = False)."""
        kept = sorted((value for value, _ in self.ended), reverse=True)[: self.count]
        return len(kept) == self.count and kept[-1] >= max(self.sums) / step

    def best(self) -> list[int]:
        running = [(total / len(text), text) for total, text in zip(self.sums, self.texts, strict=True)]
        return max([*self.ended, *running], key=lambda pair: pair[0])[1]


def decoder(model: nn.Module) -> Llama:
    """The model, which goes on from a context.

    Raises:
        ValueError: a submission has replaced it by one that does not.
    """
    if not isinstance(model, Llama):
        raise ValueError(
            f"{type(model).__name__} in place of the decoder cannot answer questions: `wrap` may change the model, not replace it"
        )
    return model
