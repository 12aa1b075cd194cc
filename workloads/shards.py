"""Prepared data on disk: token shards that are mapped into memory, and `meta.json` with the hash of each.

A folder holds, for each split, `<split>-00000.tokens` (uint16 or uint32) and, in the layout `padded`,
`<split>-00000.ends` (uint32): where each document of the shard ends. Nothing is padded on the disk, so one preparation
serves every sequence length up to the one it was cut at.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
META = "meta.json"
SMALL = 256 * 2**20
"""Bytes of data that are hashed at every opening; larger data are hashed once and then watched by size and time."""

Split = Literal["train", "validation"]
Layout = Literal["packed", "padded"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of tokens, or of document ends, and what it must contain."""

    file: str
    split: Split
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a folder of prepared data holds."""

    name: str
    tokenizer: dict[str, Any]
    """`name`, `vocab`, `eos`, `sha256`."""
    layout: Layout
    length: int | None
    """Tokens kept of each document; None keeps all."""
    source: dict[str, Any]
    """Where the text came from: `train`, `validation`, and `limit`, the documents that were asked for (null: all)."""
    dtype: Literal["uint16", "uint32"]
    largest_id: int
    documents: int
    shards: tuple[Shard, ...]
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """Identifies the tokens and how they are laid out; neither name nor place of the data."""
        content = [self.format, self.tokenizer, self.layout, self.length, self.dtype, [asdict(shard) for shard in self.shards]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def tokens(self, split: Split) -> int:
        size = np.dtype(self.dtype).itemsize
        return sum(shard.bytes for shard in self.shards if shard.split == split and shard.file.endswith(".tokens")) // size

    def write(self, folder: Path) -> None:
        text = json.dumps({"sha256": self.sha256, **asdict(self)}, indent=1)
        replace_file(folder / META, text)


def read_meta(folder: Path) -> Meta:
    """The description of the data in `folder`.

    Raises:
        ValueError: it is missing, unreadable, of another format, or was edited.
    """
    path = folder / META
    again = _again(folder)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        digest = row.pop("sha256")
        if row["format"] != FORMAT:
            raise ValueError(f"{path}: data format {row['format']!r}; this version reads format {FORMAT}; {again}")
        meta = Meta(**{**row, "shards": tuple(Shard(**shard) for shard in row["shards"])})
    except FileNotFoundError:
        again = f"run: slimperf data prepare SOURCE --name {folder.name}"
        raise ValueError(f"no prepared data in {folder}: expected {META} there; {again}") from None
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a description of prepared data ({error}); {again}") from None
    if digest != meta.sha256:
        raise ValueError(f"{path} was changed after it was written: its hash is {meta.sha256[:12]}, expected {digest[:12]}; {again}")
    return meta


def verify(folder: Path, meta: Meta, *, full: bool = False) -> None:
    """Checks the shards against `meta`: their sizes always; their hashes if asked, if small, or if not yet checked as they are.

    Raises:
        ValueError: a shard is missing or not what was prepared; the message names it.
    """
    check_sizes(folder, meta)
    found = {shard.file: (folder / shard.file).stat() for shard in meta.shards}
    stamps = {file: [stat.st_mtime_ns, stat.st_ctime_ns] for file, stat in found.items()}
    checked = folder / "verified.json"
    stamp = json.dumps({"sha256": meta.sha256, "files": stamps})
    if not full and meta.bytes > SMALL and checked.exists() and checked.read_text(encoding="utf-8") == stamp:
        return
    for shard in meta.shards:
        if sha256_of(folder / shard.file) != shard.sha256:
            raise ValueError(f"shard {folder / shard.file} was changed or is corrupt: its sha256 differs from {META}; {_again(folder)}")
    if meta.bytes > SMALL and os.access(folder, os.W_OK):
        replace_file(checked, stamp)


def check_sizes(folder: Path, meta: Meta) -> None:
    """What of `verify` reads no shard.

    Raises:
        ValueError: a shard is missing or has another size; the message names it.
    """
    if (wrong := wrong_size(folder, meta.shards)) is not None:
        raise ValueError(f"{wrong}; {_again(folder)}")


def wrong_size(folder: Path, shards: Iterable[Shard]) -> str | None:
    """What is wrong with the first shard that is missing or has another size than it was written with; None if all are whole."""
    for shard in shards:
        path = folder / shard.file
        if not path.exists():
            return f"shard {path} is missing"
        if (size := path.stat().st_size) != shard.bytes:
            return f"shard {path} has {size} bytes, expected {shard.bytes}"
    return None


def map_shards(folder: Path, meta: Meta, split: Split) -> tuple[list[NDArray[Any]], list[NDArray[np.uint32]]]:
    """(tokens, ends) of every shard of a split, mapped into memory; no ends if the layout is packed."""
    tokens: list[NDArray[Any]] = []
    ends: list[NDArray[np.uint32]] = []
    for shard in meta.shards:
        if shard.split == split and shard.bytes:
            is_ends = shard.file.endswith(".ends")
            with (folder / shard.file).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            values = np.frombuffer(mapped, dtype="uint32" if is_ends else meta.dtype)  # slices faster than numpy's memmap
            (ends if is_ends else tokens).append(values)
    return tokens, ends


def fetch(values: NDArray[Any], start: int, end: int) -> None:
    """Asks the system to have this stretch of a mapped shard read; returns at once.

    A page that is merely touched is waited for, and brings in many neighbours that a batch in random order has no use for.
    """
    mapped = cast("mmap.mmap", cast("memoryview", values.base).obj)
    first = start * values.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_WILLNEED, first, end * values.itemsize - first)


def write_shard(folder: Path, file: str, split: Split, values: NDArray[Any]) -> Shard:
    """Writes one array to the disk and says what was written."""
    data = np.ascontiguousarray(values).tobytes()
    with (folder / file).open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return Shard(file=file, split=split, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def replace_file(path: Path, text: str) -> None:
    """Writes the whole file beside its place and renames it there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _again(folder: Path) -> str:
    return f"delete {folder} and run: slimperf data prepare SOURCE --name {folder.name}"
