"""How an attempt goes on where the one before it was stopped, and what that cost."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from pathlib import Path

from runner import checkpoint, record
from runner.attempt import Attempt
from runner.record import Start
from runner.same_data import OtherData, difference
from runner.trial import Trial


def resume(attempt: Attempt, start: Start) -> dict[str, float] | None:
    """Takes up the trial's checkpoint if there is one, and returns the seconds by part that it had spent.

    One that cannot be read is said, also in the settings of `start`.

    Raises:
        OtherData: it was made on other data than there are now.
    """
    path = attempt.checkpoint_path
    try:
        saved = checkpoint.load(path, attempt.device)
    except ValueError as error:  # cut off by a full disk or a dying file system
        warnings.warn(f"{error}: the trial starts again from step 0", stacklevel=2)
        start.settings["checkpoint"] = "unreadable"
        return None
    if saved is None or saved["trial"] != attempt.trial.id:
        return None
    if why := difference(saved.get("data", {}), start.data):
        raise OtherData(
            dataclasses.replace(start, data=saved["data"], resumed_step=saved["t"]),
            f"{path}, of step {saved['t']}, was made on other data: {why}; restore them and run it again, "
            "or remove the file to start from step 0",
        )
    return checkpoint.take_up(attempt, saved)


def lost(study: Path, trial: Trial, number: int, resumed_seconds: float) -> float:
    """On-clock seconds that the previous attempt recorded beyond the point where this one goes on."""
    earlier = [path for path in record.attempts(study, trial.id) if path != record.path_of(study, trial.id, number)]
    if not earlier:
        return 0.0
    reached = 0.0
    with contextlib.suppress(ValueError):  # a damaged record of an earlier attempt costs its account of lost work, not this attempt
        for line in record.lines(earlier[-1]):
            reached = max(reached, line.seconds) if isinstance(line, record.Point) else reached
    return max(0.0, reached - resumed_seconds)
