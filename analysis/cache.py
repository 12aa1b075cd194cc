"""A columnar copy of what was last read from a folder, in the user's cache folder and without pickles.

One `.npz` per folder, valid while names, sizes and modification times of its files are unchanged. It is only ever an
accelerator: if it cannot be read or written, the records are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 2
"""Part of every key: raise it when the columns of `analysis.load` change."""
SMALLEST = 4_000_000
"""Bytes of records below which reading them again costs less than the copy is worth."""
KEPT = 8
"""Folders whose copies are kept; the one written longest ago goes first."""

Arrays = Mapping[str, NDArray[Any]]


def key(files: Mapping[str, os.stat_result]) -> str:
    """A hash of the names, sizes and modification times of the record files."""
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in sorted(files.items())]
    return hashlib.sha256(json.dumps([FORMAT, listing]).encode()).hexdigest()


def read(folder: Path, wanted: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """The arrays and the plain data kept for `folder` under this key, or None."""
    try:
        with np.load(_path(folder), allow_pickle=False) as kept:
            if str(kept["key"]) != wanted:
                return None
            arrays = {name: kept[name] for name in kept.files if name not in ("key", "plain")}
            return arrays, json.loads(kept["plain"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write(folder: Path, wanted: str, arrays: Arrays, plain: Mapping[str, Any]) -> None:
    """Keeps arrays and JSON-able data under this key, whole or not at all."""
    path = _path(folder)
    text = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, key=np.array(wanted), plain=text, **arrays)  # type: ignore[arg-type]  # stub: allow_pickle
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
        _prune(path.parent)


def _path(folder: Path) -> Path:
    """Under $SLIMPERF_CACHE, or slimperf in the user's cache folder, where prepared data are kept too."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    kept = Path(os.environ.get("SLIMPERF_CACHE") or Path(home) / "slimperf")
    return kept / "records" / (hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24] + ".npz")


def _prune(home: Path) -> None:
    copies = sorted(home.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in copies[KEPT:]:
        path.unlink(missing_ok=True)
