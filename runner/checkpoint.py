"""Checkpoints: the whole state of an attempt, and the one file that holds it, written whole and renamed.

A crash at any instant, writing included, leaves the last complete checkpoint. What could be written but not read again is refused as
soon as it turns up, because a trial without a checkpoint would start from the beginning each time it is resumed.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner import record, same_data, sharding
from runner.trial import Trial
from submissions.base import Training

if TYPE_CHECKING:
    from runner.attempt import Attempt

PLAIN = {Tensor, nn.Parameter, bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
"""Types that every checkpoint holds; exactly these, as a number of numpy's is a float to Python and something else in a file."""
REFUSED = (pickle.PickleError, TypeError, AttributeError, RuntimeError)
"""What pickling and unpickling raise for an object that they do not take."""


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


def check(training: Training) -> None:
    """Whether the checkpoint of a training can be read again.

    Raises:
        ValueError: something in it cannot; the message says where and what.
    """
    parts = {
        "optimizers": [optimizer.state_dict() for optimizer in training.optimizers],
        "training.state": training.state,
        "the model's state_dict()": training.model.state_dict(),
    }
    for place, value in _others(parts):
        if (advice := _advice(value)) is not None:
            kind = type(value)
            raise ValueError(
                f"{_named(place, training)} holds a {kind.__qualname__} (of {kind.__module__}), which a checkpoint cannot hold: {advice}"
            )


def _others(parts: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What is neither plain nor a container, with the keys and indices that lead to it."""
    seen: dict[int, Any] = {}
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), parts)]
    while waiting:
        place, value = waiting.pop()
        if type(value) in PLAIN or id(value) in seen:
            continue
        seen[id(value)] = value
        if type(value) in (dict, OrderedDict, Counter):
            waiting += [((*place, key), each) for key, held in reversed(value.items()) for each in (key, held)]
        elif type(value) in (list, tuple, set):
            waiting += reversed([((*place, number), held) for number, held in enumerate(value)])
        else:
            yield place, value


def _advice(value: Any) -> str | None:
    """What to do about an object that cannot be saved and loaded; None if it can."""
    if isinstance(value, Tensor) and type(value) in torch.serialization.get_safe_globals():
        return None  # known to load, and too large to try
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        if unknown := torch.serialization.get_unsafe_globals_in_checkpoint(file):
            names = ", ".join(sorted(unknown))
            return (
                f"keep tensors and numbers, or register {names} with torch.serialization.add_safe_globals([...]) in the submission's file"
            )
        file.seek(0)
        torch.load(file, weights_only=True)
    except REFUSED:
        return "keep tensors and numbers"
    return None


def _named(place: tuple[Any, ...], training: Training) -> str:
    """The place in words: whose state it is."""
    part, *rest = place
    if part != "optimizers":
        return f"{part}[{rest[0]!r}]" if rest else str(part)
    number, *inside = rest
    optimizer = training.optimizers[number]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    match inside:
        case ["state", int(index), *_] if index < len(parameters):  # torch numbers them in the order of the groups
            return f"the state of {names.get(id(parameters[index]), 'a parameter')}"
        case ["state" | "stacks", key, *_]:
            return f"the state of {key}"
    return f"the state_dict() of {type(optimizer).__name__}"


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
    """The last checkpoint, or None if there is none.

    Raises:
        ValueError: there is one, and it cannot be read.
    """
    for stale in path.parent.glob(f"{path.stem}.*.tmp"):
        stale.unlink(missing_ok=True)
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:  # cut off by a full disk, or not ours
        raise ValueError(f"the checkpoint {path} cannot be read ({type(error).__name__})") from error
    return content


def remove(path: Path) -> None:
    """Deletes a checkpoint and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other trials have theirs in it, or it is gone already
        path.parent.rmdir()
