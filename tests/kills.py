"""Trials that die: in a forked process, at a chosen call, and what all their attempts recorded together."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from analysis import probes
from runner import record

Story = tuple[list[tuple[int, str, str | None, float]], str]
"""(step, name, param, value) of everything recorded, and the hash of the final weights."""


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked process; returns its wait status."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            work()
            os._exit(0)
        except BaseException as error:  # the child must never return into pytest
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: object, name: str, count: int, before: bool) -> None:
    """Replaces `owner.name` by one that kills the process at its `count`-th call, before or after doing its work."""
    original, calls = getattr(owner, name), [0]

    def replaced(*args: object, **options: object) -> object:
        calls[0] += 1
        if before and calls[0] == count:
            kill_now()
        result = original(*args, **options)
        if calls[0] == count:
            kill_now()
        return result

    setattr(owner, name, replaced)


def story(study: Path, trial: str) -> Story:
    """What the attempts recorded together, each value once and without clock readings, and the hash of the final weights.

    Rows of the files of probes are told as the sum of their values.
    """
    told: dict[tuple[int, str, str | None], float] = {}
    hashed = ""
    attempts = record.attempts(study, trial)
    for path in attempts:
        for line in record.lines(path):
            if isinstance(line, record.Start) and line.resumed_step is not None:
                told = {key: value for key, value in told.items() if key[0] <= line.resumed_step}
            if isinstance(line, record.Point):
                told[line.step, line.name, line.param] = line.value
            if isinstance(line, record.End):
                hashed = line.extra.get("weights_sha256", "")
    for row in probes.rows([record.probes_of(path) for path in attempts]):
        told[row.step, f"row {row.name}", row.param] = float(row.values.astype(float).sum())
    return sorted((*key, value) for key, value in told.items()), hashed  # type: ignore[type-var]
