"""From documents to token shards: can be killed at any moment and goes on behind the last whole shard.

Where shards begin and which of their tokens are for validation depends on the documents alone, so an interrupted
preparation ends with the same files as an uninterrupted one.
"""

from __future__ import annotations

import datetime
import fcntl
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workloads.layouts import arrange, cut
from workloads.shards import META, Layout, Meta, Shard, Split, check_sizes, read_meta, replace_file, write_shard, wrong_size
from workloads.text import Position
from workloads.tokenizers import Tokenizer

SHARD_TOKENS = 2**24
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 4_000_000


class Source(Protocol):
    """Text to prepare: documents in a fixed order."""

    def identity(self) -> dict[str, Any]:
        """Plain data that changes when the text does."""

    def documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        """The documents behind a position, each with the position behind it."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a preparation is."""

    split: str
    documents: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to prepare, and how."""

    name: str
    source: Source
    validation: Source | None = None
    """Text for validation; None takes every 20th block (packed) or document (padded) of `source`."""
    tokenizer: Tokenizer
    layout: Layout = "packed"
    length: int | None = None
    """Tokens kept of each document."""
    limit: int | None = None
    """Documents taken from `source`."""
    shard_tokens: int = SHARD_TOKENS

    def settings(self) -> dict[str, Any]:
        """Everything the shards depend on."""
        return {
            "source": self.source.identity(),
            "validation": self.validation and self.validation.identity(),
            "tokenizer": self.tokenizer.identity(),
            "layout": self.layout,
            "length": self.length,
            "limit": self.limit,
            "shard_tokens": self.shard_tokens,
        }


@dataclass
class Journal:
    """What is done: kept in the unfinished folder and replaced after each shard."""

    settings: dict[str, Any]
    phase: int = 0
    position: Position = (0, 0)
    """Behind the last document of this phase that is in a shard."""
    documents: int = 0
    """Documents of this phase that are in shards."""
    total: int = 0
    tokens: int = 0
    shards: list[Shard] = field(default_factory=list)
    largest_id: int = 0

    def write(self, folder: Path) -> None:
        replace_file(folder / "journal.json", json.dumps(asdict(self)))


def prepare(job: Preparation, out: Path) -> Iterator[Progress]:
    """Prepares `out` unless it is there already; yields after each batch of documents.

    Raises:
        ValueError: the text is broken or too short, or something else is in the place: files, data made with other settings, or
            data of which a shard is damaged.
    """
    with _locked(out):
        if (out / META).exists():
            _check_finished(job, out)
            return
        check_free(out)
        partial = out.with_name(out.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        journal = _take_up(partial, job.settings())
        phases: list[tuple[Split | None, Source, int | None]] = [(None, job.source, job.limit)]
        if job.validation is not None:
            phases = [("validation", job.validation, None), ("train", job.source, job.limit)]
        for number, (split, source, limit) in list(enumerate(phases))[journal.phase :]:
            yield from _write_phase(job, journal, partial, split, source, limit)
            journal.phase, journal.position, journal.documents = number + 1, (0, 0), 0
            journal.write(partial)
        _finish(job, journal, partial, out)


def check_free(out: Path) -> None:
    """Stops if something is in the place of data to be prepared.

    Raises:
        ValueError: it is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "a folder with other files" if out.is_dir() else "a file"
        raise ValueError(f"{out} is {what}: expected a new or an empty folder for prepared data; choose another --out or --name")


def _check_finished(job: Preparation, out: Path) -> None:
    meta = read_meta(out)
    was = {**meta.source, "source": meta.source["train"], "tokenizer": meta.tokenizer, "layout": meta.layout, "length": meta.length}
    if changed := _changes(was, job.settings()):
        raise ValueError(f"{out} holds data made with another {changed}: choose another --name, or remove the folder to prepare it anew")
    check_sizes(out, meta)


def _changes(was: dict[str, Any], asked: dict[str, Any]) -> str:
    """In words, what differs between settings as they were written and as they are asked for; what was not written does not count."""
    now = json.loads(json.dumps(asked))
    return ", ".join(f"{key} ({_told(was[key])}; asked for: {_told(now[key])})" for key in now if key in was and was[key] != now[key])


def _told(setting: Any) -> str:
    match setting:
        case {"files": [[str(first), int(), int()], *others] as rows, **rest}:
            more = f" and {len(others)} more" if others else ""
            newest = datetime.datetime.fromtimestamp(max(row[2] for row in rows) / 1e9).isoformat(" ")
            return ", ".join([f"{first}{more}, {sum(row[1] for row in rows)} bytes of {newest}", *(f"{k} {v}" for k, v in rest.items())])
        case dict():
            return " ".join(str(value)[:12] for value in setting.values() if value is not None)
    return "none" if setting is None else str(setting)


def _write_phase(
    job: Preparation, journal: Journal, folder: Path, split: Split | None, source: Source, limit: int | None
) -> Iterator[Progress]:
    documents = source.documents(journal.position)
    if limit is not None:
        documents = itertools.islice(documents, max(limit - journal.documents, 0))
    waiting: list[NDArray[np.uint32]] = []
    tokens = 0
    for batch, position in _batches(documents):
        encoded = [cut(ids, job.length, job.tokenizer.eos) for ids in job.tokenizer.encode(batch)]
        waiting += encoded
        tokens += sum(map(len, encoded))
        if tokens >= job.shard_tokens:
            _write_documents(job, journal, folder, split, waiting, position)
            waiting, tokens = [], 0
        yield Progress(split=split or "all", documents=journal.documents + len(waiting), tokens=journal.tokens + tokens)
    if waiting:
        _write_documents(job, journal, folder, split, waiting, position)


def _write_documents(
    job: Preparation, journal: Journal, folder: Path, split: Split | None, documents: list[NDArray[np.uint32]], position: Position
) -> None:
    """Writes one shard per split from whole documents and notes it in the journal."""
    dtype = _dtype(job.tokenizer)
    for part, ids, ends in arrange(documents, split, job.layout):
        number = sum(shard.split == part and shard.file.endswith(".tokens") for shard in journal.shards)
        stem = f"{part}-{number:05d}"
        assert not len(ids) or ids.max() <= np.iinfo(dtype).max, f"{dtype} does not hold token id {ids.max()}"
        journal.shards.append(write_shard(folder, f"{stem}.tokens", part, ids.astype(dtype)))
        if ends is not None:
            journal.shards.append(write_shard(folder, f"{stem}.ends", part, ends))
        journal.largest_id = max(journal.largest_id, int(ids.max(initial=0)))
    journal.position = position
    journal.documents += len(documents)
    journal.total += len(documents)
    journal.tokens += sum(map(len, documents))
    journal.write(folder)


def _finish(job: Preparation, journal: Journal, partial: Path, out: Path) -> None:
    meta = Meta(
        name=job.name,
        tokenizer=job.tokenizer.identity(),
        layout=job.layout,
        length=job.length,
        source={"train": journal.settings["source"], **{key: journal.settings[key] for key in ("validation", "limit")}},
        dtype=_dtype(job.tokenizer),
        largest_id=journal.largest_id,
        documents=journal.total,
        shards=tuple(journal.shards),
    )
    for split in ("train", "validation"):
        if not meta.tokens(split):
            shutil.rmtree(partial)
            raise ValueError(f"the text gives no {split} tokens ({journal.total} documents): give more text, or --validation-source")
    meta.write(partial)
    (partial / "journal.json").unlink()
    partial.rename(out)


def _take_up(folder: Path, settings: dict[str, Any]) -> Journal:
    path = folder / "journal.json"
    if not path.exists():
        return Journal(settings=settings)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        journal = Journal(**{**row, "position": tuple(row["position"]), "shards": [Shard(**shard) for shard in row["shards"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {folder} to begin anew") from None
    if changed := _changes(journal.settings, settings):
        raise ValueError(f"{folder} was begun with another {changed}: delete it, or give the data another --name")
    if (wrong := wrong_size(folder, journal.shards)) is not None:
        raise ValueError(f"{wrong}, of an unfinished preparation: delete {folder} to begin anew")
    return journal


def _batches(documents: Iterator[tuple[str, Position]]) -> Iterator[tuple[list[str], Position]]:
    """Documents in lists that are small enough to tokenize at once, and the position behind each list."""
    batch: list[str] = []
    characters = 0
    for document, position in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch, position
            batch, characters = [], 0
    if batch:
        yield batch, position


def _dtype(tokenizer: Tokenizer) -> Any:
    return "uint16" if tokenizer.vocab <= 2**16 else "uint32"


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Waits until no other process prepares the same folder; a killed process gives way."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{out.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
