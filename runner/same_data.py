"""Whether trials go on with the data that they were made on, or race to a target that was set on others.

Data and checkpoints have names, and what is behind a name can change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import catalog, record, status
from runner.record import Start
from runner.trial import Trial

Place = tuple[str, str]
"""A workload after its overrides: what it was called, and its hash."""
Identity = Mapping[str, Any]
"""What `Data.identity()` gives."""


class OtherData(ValueError):
    """An interrupted trial has other data now; `start` opens the record of the attempt that is given up for it."""

    def __init__(self, start: Start, message: str) -> None:
        super().__init__(message)
        self.start = start


def identities(trials: Sequence[Trial], *, elsewhere: bool = False) -> dict[Place, Identity]:
    """What identifies the data of each workload, which are opened for it.

    Args:
        elsewhere: the trials run on other machines, where data may be that are not here: these are left out.

    Raises:
        ValueError: data are missing or changed.
    """
    found: dict[Place, Identity] = {}
    for key, asked in _workloads(trials).items():
        with contextlib.suppress(ValueError) if elsewhere else contextlib.nullcontext():
            found[key] = catalog.workload(*asked).open_data().identity()
    return found


def opened(trials: Iterable[Trial], known: Mapping[Place, Identity]) -> list[Trial]:
    """The trials whose data are here: a vocabulary that follows the data is known for them alone."""
    return [trial for trial in trials if _place(trial) in known]


def check(trials: Iterable[Trial], results: Path, known: Mapping[Place, Identity]) -> None:
    """Stops before numbers from other data are taken for those of these trials, or mixed with new ones.

    Args:
        known: of `identities`; trials whose data are not in it are not checked.

    Raises:
        ValueError: a trial is finished, or has a checkpoint, and was made on other data than there are now.
    """
    for trial in trials:
        if (now := known.get(_place(trial))) is None:
            continue
        study = results / trial.study
        why = difference(recorded(study, trial.id), now)
        if why is not None and _kept(study, trial):
            restore = "they follow the version of Python: use the one of the records" if now.get("name") == "stdlib" else "restore them"
            raise ValueError(
                f"trial {trial.id} ({trial.submission_name} seed {trial.seed}) in {study} was made on other data: {why}; "
                f"{restore}, or give another --results folder to run everything anew"
            )


def difference(was: Identity, now: Identity) -> str | None:
    """In words, a hash that two identities of data have and that is not the same; None if there is none."""
    before, after = hashes(was), hashes(now)
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key]:
            what = f"data {now.get('name')}" if key == "sha256" else f"checkpoint {now.get('checkpoint')}"
            return f"{what} (sha256 {before[key][:12]} then, {after[key][:12]} now)"
    return None


def hashes(identity: Identity) -> dict[str, str]:
    """Those of an identity: `sha256`, and in fine-tuning `checkpoint_sha256`."""
    return {key: str(value) for key, value in identity.items() if key.endswith("sha256") and value}


def recorded(study: Path, trial: str) -> Identity:
    """The identity of the data of a trial's latest attempt that says it; empty if none does."""
    for path in reversed(record.attempts(study, trial)):
        with contextlib.suppress(ValueError):  # a damaged record; whoever reads it says so
            start = next(record.lines(path), None)
            if isinstance(start, Start) and start.data:
                return start.data
    return {}


def warnings(trials: Sequence[Trial], known: Mapping[Place, Identity] | None = None) -> list[str]:
    """A line for each workload whose target was set on other data; `known` is what `identities` found, if it was asked."""
    from workloads import targets

    found = []
    for key, asked in _workloads(trials).items():
        workload = catalog.workload(*asked)
        if targets.made_on(workload.target) is None:
            continue
        with contextlib.suppress(ValueError):  # a plan needs no data
            identity = known.get(key, {}) if known is not None else workload.open_data().identity()
            if why := targets.data_mismatch(workload.target, identity.get("sha256")):
                found.append(f"warning: the target of {workload.name} was {why}: times to it compare among runs on these data only")
    return found


def _workloads(trials: Sequence[Trial]) -> dict[Place, tuple[str, dict[str, Any]]]:
    """Each workload once, as `catalog.workload` takes it."""
    return {_place(trial): (trial.workload, trial.overrides) for trial in trials}


def _place(trial: Trial) -> Place:
    return trial.workload, trial.workload_sha256


def _kept(study: Path, trial: Trial) -> bool:
    from runner import checkpoint

    row = status.row(study, trial.id)
    return (row is not None and row.status in record.FINISHED) or checkpoint.path_of(study, trial).exists()
