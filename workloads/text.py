"""Text to prepare: local files (.txt, .jsonl, .json.gz shards as C4 has them), folders of them, and C4 from the hub.

A document is a paragraph of a .txt file (up to a blank line), or a field of a line of JSON, `text` by default. Blank ones are left out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from workloads import text_files

Position = tuple[int, int]
"""Where a source is read up to: number of the file, and of documents taken from it."""
C4 = "allenai/c4"
C4_FILES = {"train": 1024, "validation": 8}
JSON = json.JSONDecoder(parse_int=float)
"""Numbers are not read as text, and Python refuses whole ones of more than 4,300 digits."""


class LocalText:
    """Documents of local files, in the given order."""

    def __init__(self, root: Path, files: list[Path], *, field: str = "text", skipped: tuple[str, ...] = ()) -> None:
        """`field` holds the text of a line of JSON (`data.text` is one inside another); `skipped` names what is there and not read."""
        self.root, self.files, self.field, self.skipped = root, files, field, skipped

    def identity(self) -> dict[str, Any]:
        sizes = [(file, file.stat()) for file in self.files]
        named = {} if self.field == "text" else {"field": self.field}
        return {"files": [[self.name(file), stat.st_size, stat.st_mtime_ns] for file, stat in sizes], **named}

    def documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        for number, file in enumerate(self.files[start[0] :], start=start[0]):
            skipped = start[1] if number == start[0] else 0
            for taken, document in enumerate(read_documents(file, self.field), start=1):
                if taken > skipped:
                    yield document, (number, taken)

    def split(self, validation: LocalText | None = None) -> tuple[LocalText, LocalText | None]:
        """Text for training, and for validation if there is any: the given one, or the files that are named so.

        Files that are named so, or are in the given one, are not trained on; if all are named so, that says nothing.

        Raises:
            ValueError: there is nothing but the given text.
        """
        given = {file.resolve() for file in validation.files} if validation else set()
        files = [file for file in self.files if file.resolve() not in given]
        if not files:
            raise ValueError(f"{self.root}: every text file there is for validation; expected others to train on")
        named = [file for file in files if text_files.is_held_out(file.relative_to(self.root))]
        if len(named) == len(files):
            return self._of(files), validation
        others = [file for file in files if file not in set(named)]
        if validation is None:
            return self._of(others), self._of(named) if named else None
        return self._of(others, *(f"{self.name(file)} (named as validation)" for file in named)), validation

    def name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _of(self, files: list[Path], *skipped: str) -> LocalText:
        return LocalText(self.root, files, field=self.field, skipped=(*self.skipped, *skipped))


def told(train: LocalText, validation: LocalText | None) -> list[str]:
    """Which files are read for what, and which are not, in a line each."""
    kept = "every 20th part is held out" if validation is None else f"{_few(validation)} held out"
    skipped = [f"not read: {text_files.few(train.skipped)}"] if train.skipped else []
    return [f"text: {_few(train)} to train on; for validation, {kept}", *skipped]


def _few(source: LocalText) -> str:
    return text_files.few([source.name(file) for file in source.files])


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
                    yield sound(row["text"]), (number, taken)
            except (OSError, KeyError) as error:
                message = str(error).splitlines()[0]
                raise ValueError(f"cannot read {file} of {self.repository} ({message}): run the same command again to go on") from None


def local_text(path: Path, *, field: str = "text") -> LocalText:
    """The text files at `path`: one file, or all in a folder and below it, by name.

    Raises:
        ValueError: there is no text.
    """
    endings = ", ".join(text_files.SUFFIXES)
    if not path.exists():
        raise ValueError(f"no text at {path}: expected a file ({endings}), a folder of them, c4 or stdlib")
    if path.is_file():
        if not text_files.is_text(path):
            raise ValueError(f"{path}: expected text as {endings}, or a folder of such files")
        return LocalText(path.parent, [path], field=field)
    files, skipped = text_files.below(path)
    if not files:
        raise ValueError(f"no text in {path}: expected files that end with {endings}; found {text_files.few(skipped)}")
    return LocalText(path, files, field=field, skipped=tuple(skipped))


def read_documents(file: Path, field: str = "text") -> Iterator[str]:
    """The documents of one file; `field` holds the text of a line of JSON.

    Raises:
        ValueError: a line is not UTF-8, not JSON, or has no text; the message names file and line.
    """
    name = file.name.lower()
    open_file: Any = gzip.open if name.endswith(".gz") else open
    with open_file(file, "rb") as stream:
        yield from _paragraphs(file, stream) if name.removesuffix(".gz").endswith(".txt") else _json_lines(file, stream, field)


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


def _json_lines(file: Path, stream: IO[bytes], field: str) -> Iterator[str]:
    for number, line in _lines(file, stream):
        if not line.strip():
            continue
        try:
            row = JSON.decode(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}); expected one object per line"
            ) from None
        except RecursionError:
            raise ValueError(f"{file}, line {number}: nested too deeply to be read; take the line out, or what is nested in it") from None
        text = row
        for part in field.split("."):
            text = text.get(part) if isinstance(text, dict) else None
        if not isinstance(text, str):
            found = f"an object with {', '.join(map(repr, row)) or 'nothing'}" if isinstance(row, dict) else type(row).__name__
            raise ValueError(
                f"{file}, line {number}: expected an object with a string {field!r}, got {found}; "
                "name the field that holds the text: --field NAME, or --field OUTER.INNER for one inside another"
            )
        if text.strip():
            yield sound(text)


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


def sound(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
