"""Text to prepare: local files (.txt, .jsonl, .json.gz shards as C4 has them), folders of them, and C4 from the hub.

A document is a paragraph of a .txt file (up to a blank line), or the field `text` of a line of JSON. Blank ones are left out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

SUFFIXES = (".txt", ".jsonl", ".json", ".jsonl.gz", ".json.gz")
Position = tuple[int, int]
"""Where a source is read up to: number of the file, and of documents taken from it."""
C4 = "allenai/c4"
C4_FILES = {"train": 1024, "validation": 8}


class LocalText:
    """Documents of local files, in the given order."""

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root, self.files = root, files

    def identity(self) -> dict[str, Any]:
        sizes = [(file, file.stat()) for file in self.files]
        return {"files": [[file.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in sizes]}

    def documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        for number, file in enumerate(self.files[start[0] :], start=start[0]):
            skipped = start[1] if number == start[0] else 0
            for taken, document in enumerate(read_documents(file), start=1):
                if taken > skipped:
                    yield document, (number, taken)


class HubText:
    """Documents of C4 `en`, streamed from the Hugging Face hub (or a copy of it) file by file."""

    def __init__(self, split: str, repository: str = C4, files: int | None = None) -> None:
        self.repository, self.split = repository, split
        self.count = files or C4_FILES[split]
        try:
            import datasets  # noqa: F401  # said here, before anything is written
        except ImportError:
            raise ValueError("C4 is streamed with the package datasets: pip install 'slimperf[hub]', or give local text") from None

    def identity(self) -> dict[str, Any]:
        return {"repository": self.repository, "split": self.split, "files": self.count}

    def documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        from datasets import load_dataset

        for number in range(start[0], self.count):
            file = f"en/c4-{self.split}.{number:05d}-of-{self.count:05d}.json.gz"
            skipped = start[1] if number == start[0] else 0
            try:
                rows = load_dataset(self.repository, data_files={"train": file}, split="train", streaming=True).skip(skipped)
                for taken, row in enumerate(rows, start=skipped + 1):
                    yield _sound(row["text"]), (number, taken)
            except (OSError, KeyError) as error:
                message = str(error).splitlines()[0]
                raise ValueError(f"cannot read {file} of {self.repository} ({message}): run the same command again to go on") from None


def local_text(path: Path, *, held_out: bool | None = None) -> LocalText:
    """The text files at `path`: one file, or all in a folder and below it, by name.

    `held_out` picks those that are named as validation (True) or the others (False); None takes all.

    Raises:
        ValueError: there is no text.
    """
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: expected text as {', '.join(SUFFIXES)}, or a folder of such files")
    if not path.exists():
        raise ValueError(f"no text at {path}: expected a file ({', '.join(SUFFIXES)}), a folder of them, c4 or stdlib")
    root = path if path.is_dir() else path.parent
    below = path.rglob("*") if path.is_dir() else [path]
    files = [file for file in below if file.is_file() and file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
    if not files:
        raise ValueError(f"no text in {path}: expected files that end with {', '.join(SUFFIXES)}")
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    chosen = [file for file in files if held_out is None or ("validation" in file.name) == held_out]
    return LocalText(root, chosen)


def read_documents(file: Path) -> Iterator[str]:
    """The documents of one file.

    Raises:
        ValueError: a line is not UTF-8, not JSON, or has no text; the message names file and line.
    """
    open_file: Any = gzip.open if file.name.endswith(".gz") else open
    with open_file(file, "rb") as stream:
        yield from _paragraphs(file, stream) if file.name.endswith(".txt") else _json_lines(file, stream)


def _paragraphs(file: Path, stream: IO[bytes]) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(file, stream):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines).rstrip("\r\n")
            lines = []
    if lines:
        yield "".join(lines).rstrip("\r\n")


def _json_lines(file: Path, stream: IO[bytes]) -> Iterator[str]:
    for number, line in _lines(file, stream):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}); expected one object per line"
            ) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            found = f"an object with {', '.join(map(repr, row)) or 'nothing'}" if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{file}, line {number}: expected an object with a string 'text', got {found}")
        if row["text"].strip():
            yield _sound(row["text"])


def _lines(file: Path, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{file}, line {number}: not UTF-8 (byte 0x{byte:02x} at {error.start}); convert the file to UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}, after line {number}: the gzip file is cut off or corrupt ({error}); fetch it again") from None


def _sound(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
