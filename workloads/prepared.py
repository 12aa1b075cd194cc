"""Finds prepared data by name or folder and opens them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workloads import corpus
from workloads.shards import META, Meta, read_meta, verify

if TYPE_CHECKING:
    from workloads.batches import TokenData


def data_root() -> Path:
    """Where prepared data live: $SLIMPERF_DATA, or `data` in the current folder."""
    return Path(os.environ.get("SLIMPERF_DATA") or "data")


def prepared_folders() -> Iterator[Path]:
    """Every folder of prepared data, the embedded corpus' cached ones among them."""
    for root in (data_root(), corpus.cache()):
        yield from sorted(path.parent for path in root.glob(f"*/{META}"))


def find_data(data: str, *, tokenizer: str | None = None, layout: str | None = None, length: int | None = None) -> Path:
    """The folder of prepared data; the embedded corpus is made at first use, and nothing else goes by its name.

    Raises:
        ValueError: nothing of that name is prepared.
    """
    if data == corpus.NAME:
        return corpus.open_corpus(tokenizer or "bytes", "padded" if layout == "padded" else "packed")
    for folder in (Path(data), data_root() / data):
        if (folder / META).exists():
            return folder
    known = sorted({corpus.NAME, *(folder.name for folder in data_root().glob("*") if (folder / META).exists())})
    nearest = difflib.get_close_matches(data, known, n=1)
    cut = length if layout == "padded" else None  # packed documents are kept whole
    options = "".join(f" --{name} {value}" for name, value in (("tokenizer", tokenizer), ("layout", layout), ("length", cut)) if value)
    raise ValueError(
        f"data {data!r} are not prepared: expected {data_root() / data / META}"
        + (f" (did you mean {nearest[0]!r}?)" if nearest else "")
        + f"; run: slimperf data prepare {'c4' if data == 'c4' else 'SOURCE'} --name {data}{options}"
    )


def open_tokens(data: str, *, length: int, tokenizer: str | None = None, layout: str | None = None, vocab: int | None = None) -> TokenData:
    """Verified data as sequences of `length` tokens; what is None is taken as it comes.

    Raises:
        ValueError: the data are missing, corrupt or changed, or not what the workload needs.
    """
    from workloads.batches import TokenData

    folder = find_data(data, tokenizer=tokenizer, layout=layout, length=length)
    meta = read_meta(folder)
    _check(folder, meta, length, tokenizer, layout, vocab)
    verify(folder, meta)
    return TokenData(folder, meta, length)


def _check(folder: Path, meta: Meta, length: int, tokenizer: str | None, layout: str | None, vocab: int | None) -> None:
    wanted = tokenizer or meta.tokenizer["name"], layout or meta.layout
    again = f"prepare others: slimperf data prepare SOURCE --tokenizer {wanted[0]} --layout {wanted[1]}"
    if meta.layout == "padded":
        again += f" --length {length}"
    if tokenizer not in (None, meta.tokenizer["name"]):
        raise ValueError(f"data {meta.name!r} in {folder} have tokenizer {meta.tokenizer['name']}, expected {tokenizer}; {again}")
    if layout not in (None, meta.layout):
        raise ValueError(f"data {meta.name!r} in {folder} have layout {meta.layout}, expected {layout}; {again}")
    if meta.layout == "padded" and meta.length is not None and meta.length < length:  # a packed stream has no documents to be short
        raise ValueError(f"data {meta.name!r} in {folder} keep {meta.length} tokens of a document, expected {length} or more; {again}")
    if vocab is not None and meta.largest_id >= vocab:
        raise ValueError(f"data {meta.name!r} in {folder} hold token id {meta.largest_id}, but the model has {vocab}; {again}")
