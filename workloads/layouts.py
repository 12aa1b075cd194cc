"""From the token ids of documents to the arrays of a shard: what is cut, and what is held out for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workloads.shards import Layout, Split

BLOCK = 4096
"""Packed tokens are held out in blocks of this size, or of a shard's 20th part if that is smaller."""
EVERY = 20
"""One of so many blocks or documents is for validation."""

Ids = NDArray[np.uint32]


def cut(ids: Ids, length: int | None, eos: int) -> Ids:
    """The first `length` tokens; a document that was cut still ends with `eos`, as T5's tokenizer has it."""
    if length is None or len(ids) <= length:
        return ids
    out = ids[:length].copy()
    out[-1] = eos
    return out


def arrange(documents: Sequence[Ids], split: Split | None, layout: Layout) -> Iterator[tuple[Split, Ids, Ids | None]]:
    """(split, tokens, ends of documents) of each part of a shard; a split of None holds every 20th part out."""
    if layout == "packed":
        ids = np.concatenate(documents)
        if split is not None:
            yield split, ids, None
        else:
            is_held_out = _held_out(np.arange(len(ids)) // max(1, min(BLOCK, len(ids) // EVERY)))
            yield "train", ids[~is_held_out], None
            yield "validation", ids[is_held_out], None
        return
    is_held_out = _held_out(np.arange(len(documents)))
    parts: list[tuple[Split, Sequence[Ids]]] = [
        ("train", [ids for ids, held in zip(documents, is_held_out, strict=True) if not held]),
        ("validation", [ids for ids, held in zip(documents, is_held_out, strict=True) if held]),
    ]
    for part, chosen in parts if split is None else [(split, documents)]:
        if chosen:
            yield part, np.concatenate(chosen), np.cumsum([len(ids) for ids in chosen]).astype(np.uint32)


def _held_out(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(numbers % EVERY == EVERY - 1)
