"""Which files of a folder are text, and which of them are for validation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz", ".json.gz")
HELD_OUT = re.compile(r"(?<![a-z])(?<!cross[-_. ])(?:validation|valid)(?![a-z])|(?:^|\.)(?:val|dev)(?:[-_. ]?\d+)*$", re.IGNORECASE)
"""A word of a file's name, or the name of a folder, that sets text apart for validation; cross-validation is a subject to write about,
and `val` and `dev` are syllables of other names, so that they count alone, after a dot or before numbers."""


def below(root: Path) -> tuple[list[Path], list[str]]:
    """The text files in a folder and below it, by name, and the names of the others; hidden files and folders are passed over.

    A folder that is linked to is entered, once: where it is itself below `root`, it is read there.
    """
    files: list[Path] = []
    skipped: list[str] = []
    for file in _walk(root, skipped):
        if not file.exists():
            skipped.append(f"{file.relative_to(root).as_posix()} (a broken link)")
        elif file.is_file() and is_text(file):
            files.append(file)
        else:
            skipped.append(file.relative_to(root).as_posix())
    return sorted(files, key=lambda file: file.relative_to(root).as_posix()), sorted(skipped)


def is_text(file: Path) -> bool:
    """Whether a file's name ends as those of text do."""
    return file.name.lower().endswith(SUFFIXES)


def is_held_out(relative: Path) -> bool:
    """Whether its name, or that of a folder on the way to it, says that a file is for validation."""
    stem = next(relative.name[: -len(suffix)] for suffix in reversed(SUFFIXES) if relative.name.lower().endswith(suffix))
    return HELD_OUT.search(stem) is not None or any(HELD_OUT.fullmatch(folder) for folder in relative.parts[:-1])


def few(names: Sequence[str], most: int = 3) -> str:
    """Their number, and the first ones."""
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} file{'s' * (len(names) != 1)}" + (f" ({', '.join(names[:most])}{more})" if names else "")


def _walk(root: Path, skipped: list[str]) -> Iterator[Path]:
    """Everything below that is no folder; linked folders come last, so that what is itself below is found in its own place."""
    entered: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        top = waiting.pop(0)
        for name, folders, files in os.walk(top, onerror=lambda error: skipped.append(f"{error.filename} ({error.strerror})")):
            folder = Path(name)
            identity = (folder.stat().st_dev, folder.stat().st_ino)
            if identity in entered:
                folders.clear()
                continue
            entered.add(identity)
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
            waiting += [folder / inner for inner in folders if (folder / inner).is_symlink()]
            yield from (folder / file for file in files if not file.startswith("."))
