"""Checkpoints: the whole state of an attempt in one file, written whole and renamed.

A crash at any instant, writing included, leaves the last complete checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from runner.trial import Trial


def path_of(study: Path, trial: Trial) -> Path:
    return study / ".checkpoints" / f"{trial.id}.pt"


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values so that `load` reads all of it or the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint, or None if there is none that can be read."""
    for stale in path.parent.glob(f"{path.stem}.*.tmp"):
        stale.unlink(missing_ok=True)
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None  # cut off by a full disk or a dying file system: the trial starts again and says so
    return content


def remove(path: Path) -> None:
    """Deletes a checkpoint and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other trials have theirs in it, or it is gone already
        path.parent.rmdir()
