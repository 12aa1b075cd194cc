"""Token batches addressed by step: what a step reads depends on (seed, step) alone.

Within an epoch every sequence is read once, in an order that is computed (a keyed permutation), not stored.
Shape legend: b sequences, t positions; rows hold t + 1 tokens, and -1 where there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.base import Batch, Data
from workloads.shards import Meta, Split, fetch, map_shards

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Int = NDArray[np.int64]
IGNORED = -100
"""Target of a position that bears no loss: the default of torch's cross entropy."""


class Tokens(NamedTuple):
    """A micro-batch."""

    inputs_bt: Tensor
    targets_bt: Tensor
    target_count: int
    """Targets that bear a loss."""


class Rows:
    """The sequences of one split. Packed: t + 1 tokens of the stream, t apart. Padded: a document, cut at t."""

    def __init__(self, folder: Path, meta: Meta, split: Split, length: int) -> None:
        self.length, self.eos = length, meta.tokenizer["eos"]
        self._tokens, self._ends = map_shards(folder, meta, split)
        padded = meta.layout == "padded"
        sizes = [len(ends) for ends in self._ends] if padded else [max(0, (len(ids) - 1) // length) for ids in self._tokens]
        self._first = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        """Number of each shard's first row."""

    def __len__(self) -> int:
        return int(self._first[-1])

    def bear_loss(self) -> bool:
        """Whether any row has a target: the shortest documents are their end token alone."""
        return not self._ends or (self.length > 1 and any(ends[-1] > len(ends) for ends in self._ends))

    def counts(self, rows: Int) -> Int:
        """Loss-bearing targets of each row."""
        if not self._ends:
            return np.full(len(rows), self.length, dtype=np.int64)
        _, start, end = self._places(rows)
        sizes: Int = np.minimum(end - start, self.length) - 1
        return sizes

    def read(self, rows: Int) -> Int:
        """(b, t + 1) tokens."""
        out = np.full((len(rows), self.length + 1), -1, dtype=np.int64)
        shard, start, end = self._places(rows)
        stop = np.minimum(end, start + self.length + (not self._ends))
        places = list(zip(shard.tolist(), start.tolist(), stop.tolist(), strict=True))
        for k, first, last in places:
            fetch(self._tokens[k], first, last)
        for row, (k, first, last) in enumerate(places):
            out[row, : last - first] = self._tokens[k][first:last]
        cut = np.flatnonzero(stop < end)
        out[cut, stop[cut] - start[cut] - 1] = self.eos  # a document that is cut still ends with eos, as T5's tokenizer has it
        return out

    def _places(self, rows: Int) -> tuple[Int, Int, Int]:
        """(shard, start, end) of each row; the ends of documents are few enough to stay in the page cache."""
        shard = np.searchsorted(self._first, rows, side="right") - 1
        local = rows - self._first[shard]
        if not self._ends:
            return shard, local * self.length, (local + 1) * self.length + 1
        start, end = np.zeros_like(rows), np.empty_like(rows)
        for k in np.unique(shard):
            mine, ends = np.flatnonzero(shard == k), self._ends[k]
            later = mine[local[mine] > 0]
            start[later], end[mine] = ends[local[later] - 1], ends[local[mine]]
        return shard, start, end


class TokenData(Data):
    """Prepared tokens, read as sequences of `length`."""

    def __init__(self, folder: Path, meta: Meta, length: int) -> None:
        self.meta = meta
        self.train, self.validation = Rows(folder, meta, "train", length), Rows(folder, meta, "validation", length)
        self._rows: tuple[tuple[int, int, int], Int] | None = None
        """The sequences of the latest step, which is asked for twice."""
        for split, rows in (("training", self.train), ("validation", self.validation)):
            if not len(rows):
                raise ValueError(
                    f"data {meta.name!r} in {folder} hold no {split} sequence of {length} tokens: use a smaller length, or more text"
                )
            if not rows.bear_loss():
                raise ValueError(
                    f"data {meta.name!r} in {folder} hold no {split} document with a second token, to be predicted, within batch.length = "
                    f"{length}: use a larger length, or other text"
                )

    def identity(self) -> dict[str, Any]:
        return {
            "name": self.meta.name,
            "sha256": self.meta.sha256,
            "tokenizer": self.meta.tokenizer["name"],
            "layout": self.meta.layout,
            "sequences": len(self.train),
        }

    def micro_batches(
        self, seed: int, step: int, batch: Batch, device: torch.device | str, *, rank: int = 0, world: int = 1
    ) -> Iterator[Tokens]:
        share, rest = divmod(batch.sequences, world)
        if rest:
            raise ValueError(f"{batch.sequences} sequences per step cannot be shared by {world} devices: use a number that divides them")
        rows = self.rows(seed, step, batch)[rank * share : (rank + 1) * share]
        micro = batch.micro or share
        for start in range(0, share, micro):
            yield to_batch(self.train.read(rows[start : start + micro]), device)

    def target_tokens(self, seed: int, step: int, batch: Batch) -> int:
        return some_targets(int(self.train.counts(self.rows(seed, step, batch)).sum()), step, batch)

    def rows(self, seed: int, step: int, batch: Batch) -> Int:
        """Numbers of the training sequences of `step` (from 1)."""
        asked, latest = (seed, step, batch.sequences), self._rows
        if latest is None or latest[0] != asked:
            self._rows = latest = asked, self._drawn(*asked)
        return latest[1]

    def _drawn(self, seed: int, step: int, sequences: int) -> Int:
        count = len(self.train)
        places = np.arange((step - 1) * sequences, step * sequences, dtype=np.int64)
        epochs = places // count
        return np.concatenate([shuffled(places[epochs == epoch] % count, count, f"{seed} order {epoch}") for epoch in np.unique(epochs)])

    def validation_rows(self, tokens: int) -> tuple[Int, int]:
        """The first validation sequences that hold `tokens` loss-bearing tokens (or all there are), and how many they hold."""
        most = np.arange(min(len(self.validation), tokens), dtype=np.int64)
        reached = np.cumsum(self.validation.counts(most))
        enough = min(int(np.searchsorted(reached, tokens)) + 1, len(most))
        return most[:enough], int(reached[enough - 1])


def some_targets(count: int, step: int, batch: Batch) -> int:
    """The number of targets in the batch of a step.

    Raises:
        ValueError: there is none, so that there is no mean loss either.
    """
    if not count:
        raise ValueError(
            f"none of the {batch.sequences} sequences of step {step} has a token to predict within batch.length = {batch.length}: "
            "give a step more or longer sequences, or leave empty documents out of the data"
        )
    return count


def to_batch(rows: Int, device: torch.device | str) -> Tokens:
    """Inputs and next-token targets of `rows` (b, t + 1) on the device."""
    import torch

    inputs, targets = np.maximum(rows[:, :-1], 0), np.where(rows[:, 1:] < 0, IGNORED, rows[:, 1:])
    pair = torch.from_numpy(np.stack([inputs, targets]))
    if torch.device(device).type == "cuda":
        pair = pair.pin_memory().to(device, non_blocking=True)
    return Tokens(pair[0], pair[1], int((rows[:, 1:] >= 0).sum()))


def shuffled(places: Int, count: int, key: str) -> Int:
    """Where a permutation of range(count), chosen by `key`, sends each place.

    A Feistel network on the next even power of two, walked until it lands inside: a bijection in constant memory.
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.shake_256(key.encode()).digest(48), dtype="<u8")
    mask = np.uint64(2**half - 1)
    out = _feistel(places.astype(np.uint64), keys, half, mask)
    while (outside := out >= count).any():
        out[outside] = _feistel(out[outside], keys, half, mask)
    return out.astype(np.int64)


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], half: int, mask: np.uint64) -> NDArray[np.uint64]:
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << np.uint64(half)) | right
