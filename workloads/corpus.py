"""The embedded text: English and code from the running Python's own standard library.

No download, and the same text for the same Python; another Python, another text, and the data hash says so.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.preparation import Preparation, prepare
from workloads.shards import Layout
from workloads.text import Position
from workloads.tokenizers import load_tokenizer

NAME = "stdlib"
EDITION = 2
"""Raised when the rule changes that makes the text, so that what is cached is made again."""
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings", "lib-dynload"}
"""Folders whose text is not ours to count on (installed packages) or not like text (tables, tests)."""
SOURCE_EVERY = 4
"""Every fourth file enters as its source, the others as their docstrings: no text enters twice."""
ENOUGH = 1_000_000


class StandardLibrary:
    """The documents of the embedded corpus, one per file."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(sysconfig.get_paths()["stdlib"])

    def identity(self) -> dict[str, Any]:
        return {"corpus": NAME, "edition": EDITION, "python": ".".join(map(str, sys.version_info[:3]))}

    def documents(self, start: Position) -> Iterator[tuple[str, Position]]:
        for number, path in enumerate(self.files()):
            if (number, 1) > start and (text := _text(path, as_source=number % SOURCE_EVERY == 0)):
                yield text, (number, 1)

    def files(self) -> list[Path]:
        """Every module of the library, by name; `_sysconfigdata` holds paths of the machine that built it."""
        relative = (path.relative_to(self.root) for path in self.root.rglob("*.py"))
        chosen = (path for path in relative if not EXCLUDED.intersection(path.parts) and not path.name.startswith("_sysconfigdata"))
        return [self.root / path for path in sorted(chosen, key=lambda path: path.as_posix())]


def open_corpus(tokenizer: str, layout: Layout) -> Path:
    """The folder of the prepared corpus, made at first use in a few seconds.

    Raises:
        ValueError: this Python has no (whole) standard library as files.
    """
    python = ".".join(map(str, sys.version_info[:3]))
    folder = cache() / f"{NAME}-{EDITION}-{python}-{tokenizer.replace('/', '_')}-{layout}"
    if not (folder / "meta.json").exists():
        library = StandardLibrary()
        size = sum(path.stat().st_size for path in library.files())
        if size < ENOUGH:
            raise ValueError(
                f"the standard library at {library.root} holds {size} bytes of source, expected more than {ENOUGH}: install the whole "
                "Python (on Debian: apt install python3 libpython3-stdlib), or prepare your own text with slimperf data prepare"
            )
        job = Preparation(name=NAME, source=library, tokenizer=load_tokenizer(tokenizer), layout=layout)
        for _ in prepare(job, folder):
            pass
    return folder


def cache() -> Path:
    """Where what can be made again is kept: $SLIMPERF_CACHE, or slimperf in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SLIMPERF_CACHE") or Path(home) / "slimperf")


def _text(path: Path, *, as_source: bool) -> str:
    source = path.read_text(encoding="utf-8", errors="replace")
    if as_source:
        return source
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates and examples of the library need not be valid
        return ""
    return "\n\n".join(_docstrings(tree))


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Of a definition, then of those directly in it."""
    if docstring := ast.get_docstring(node):
        yield docstring
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(inner)
