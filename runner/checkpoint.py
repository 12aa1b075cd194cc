"""Checkpoints: the whole state of an attempt, and the one file that holds it, written whole and renamed.

A crash at any instant, writing included, leaves the last complete checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runner import record, same_data, sharding
from runner.trial import Trial

if TYPE_CHECKING:
    from runner.attempt import Attempt


def path_of(study: Path, trial: Trial) -> Path:
    return study / record.ASIDE / f"{trial.id}.pt"


def content_of(attempt: Attempt) -> dict[str, Any]:
    """Everything that a resumed attempt needs; with divided state every rank must ask, and only rank 0 has all of it."""
    training = attempt.training
    states = sharding.states(training.optimizers, attempt.group) if attempt.owners else [o.state_dict() for o in training.optimizers]
    return {
        "trial": attempt.trial.id,
        "data": same_data.hashes(attempt.data.identity()),
        "t": training.t,
        "model": training.model.state_dict(),
        "optimizers": states,
        "state": training.state,
        "losses": [loss.detach() for loss in attempt.losses],
        "probes": attempt.probes.state(),
        "observer": attempt.observer.state_dict() if attempt.observer else {},
        "reached": attempt.reached,
        "lost_seconds": attempt.lost_seconds,
        "seconds": attempt.clock.settle(),
    }


def take_up(attempt: Attempt, content: dict[str, Any]) -> dict[str, float]:
    """Brings an attempt to where another was saved; returns the clock's seconds then."""
    training = attempt.training
    training.t = content["t"]
    attempt.submission.restore(training)
    training.model.load_state_dict(content["model"])
    for optimizer, state in zip(training.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    training.state = content["state"]
    attempt.losses, attempt.reached, attempt.lost_seconds = content["losses"], content["reached"], content["lost_seconds"]
    attempt.probes.restore(content["probes"])
    if attempt.observer is not None:
        attempt.observer.load_state_dict(content["observer"])
    seconds: dict[str, float] = content["seconds"]
    attempt.saved_at = seconds.get("total", 0.0)
    return seconds


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
