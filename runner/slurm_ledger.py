"""What was handed to Slurm: one folder `<study>/.slurm/<token>` per array of jobs, written before it is submitted.

The job's name holds the token. So a shell that dies between `sbatch` and the next line loses nothing: the jobs are found by
name. A fresh token per submission also keeps results of an earlier cluster with the same job numbers away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.slurm_queue import Task

FOLDER = ".slurm"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One array: which trials its tasks run."""

    token: str
    name: str
    """Job name in Slurm."""
    time: str
    """UTC, ISO 8601."""
    workload: str
    packs: list[list[str]]
    """Ids of the trials that task 0, 1, ... runs, one after the other."""
    resources: dict[str, Any] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    """The last attempt that there was at each trial that is to run anew; -1 for none."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in Slurm a trial is, or was last."""

    submission: Submission
    index: int
    task: Task | None
    """None if Slurm has forgotten it."""
    cancelled: bool = False
    """By `slimperf cancel`."""

    @property
    def live(self) -> bool:
        return self.task is not None and self.task.live

    def retries(self, trial: str, attempt: int) -> bool:
        """Whether this attempt at the trial is one that a further one will replace."""
        return self.live and attempt <= self.submission.retried.get(trial, -1)


@contextlib.contextmanager
def exclusive(study: Path) -> Iterator[None]:
    """Lets one process at a time look at Slurm and submit; the system frees the lock of one that dies."""
    (study / FOLDER).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(study / FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def enter(
    study: Path, workload: str, packs: Sequence[Sequence[str]], resources: dict[str, Any], *, retried: dict[str, int] | None = None
) -> Submission:
    """A new submission, on the disk before anything is sent."""
    token = uuid.uuid4().hex[:10]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name)[:40]  # a comma would end the name in squeue's list
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    entry = Submission(
        token=token,
        name=f"slimperf-{plain}-{token}",
        time=now,
        workload=workload,
        packs=[list(pack) for pack in packs],
        resources=resources,
        retried=retried or {},
    )
    home(study, entry).mkdir(parents=True)
    _write(home(study, entry) / "submission.json", dataclasses.asdict(entry))
    return entry


def home(study: Path, submission: Submission) -> Path:
    """The submission's folder: its entry, and submitit's pickles and logs."""
    return study / FOLDER / submission.token


def withdraw(study: Path, submission: Submission) -> None:
    """Takes back an entry that Slurm refused."""
    (home(study, submission) / "submission.json").unlink()


def entries(study: Path) -> list[Submission]:
    """All submissions of a study, oldest first."""
    files = (study / FOLDER).glob("*/submission.json")
    return sorted((Submission(**json.loads(file.read_text(encoding="utf-8"))) for file in files), key=lambda entry: entry.time)


def places(study: Path, submissions: Iterable[Submission], tasks: Iterable[Task]) -> dict[str, Place]:
    """Where each trial of these submissions is; a later submission replaces an earlier one that is not live."""
    by_name = {(task.name, task.index): task for task in tasks}
    found: dict[str, Place] = {}
    for submission in submissions:
        cancelled = _cancelled(study, submission)
        for index, pack in enumerate(submission.packs):
            task = by_name.get((submission.name, index))
            for trial in pack:
                place = Place(submission=submission, index=index, task=task, cancelled=trial in cancelled)
                if trial not in found or place.live or not found[trial].live:
                    found[trial] = place
    return found


def note_cancelled(study: Path, places: dict[str, Place]) -> None:
    """Remembers that a person ended these trials, so that they do not count as lost."""
    by_token: dict[str, list[str]] = {}
    submissions = {place.submission.token: place.submission for place in places.values()}
    for trial, place in places.items():
        by_token.setdefault(place.submission.token, []).append(trial)
    for token, trials in by_token.items():
        submission = submissions[token]
        _write(home(study, submission) / "cancelled.json", sorted({*trials, *_cancelled(study, submission)}))


def _cancelled(study: Path, submission: Submission) -> frozenset[str]:
    try:
        return frozenset(json.loads((home(study, submission) / "cancelled.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()


def _write(path: Path, content: Any) -> None:
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def note_claim(study: Path, trial: str, claim: dict[str, Any]) -> None:
    """Remembers which job, on which host, took a trial's lock."""
    (study / FOLDER / "claims").mkdir(parents=True, exist_ok=True)
    _write(study / FOLDER / "claims" / f"{trial}.json", claim)


def claim_of(study: Path, trial: str) -> dict[str, Any] | None:
    """What `note_claim` wrote last."""
    try:
        claim: dict[str, Any] = json.loads((study / FOLDER / "claims" / f"{trial}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return claim
