"""What a trial does while it writes no points: a line in a file of its own, for whoever watches.

The file stands beside the checkpoint, is gone when the evaluation ends, and nothing depends on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from runner import record
from workloads import progress

SUFFIX = ".doing"
EVERY = 1.0
"""Seconds between two lines; a shorter evaluation shows nothing."""


@contextlib.contextmanager
def shown(path: Path) -> Iterator[None]:
    """What is told of progress inside can be read from the file."""
    written, latest = False, time.monotonic()

    def write(text: str) -> None:
        nonlocal written, latest
        if (now := time.monotonic()) - latest >= EVERY:
            written, latest = True, now
            with contextlib.suppress(OSError):  # a full disk is for the record to report
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")

    with progress.heard(write):
        try:
            yield
        finally:
            if written:
                path.unlink(missing_ok=True)


def read(study: Path, trial: str) -> str:
    """What a running trial evaluates just now, or nothing."""
    try:
        return (study / record.ASIDE / f"{trial}{SUFFIX}").read_text(encoding="utf-8")
    except OSError:
        return ""
