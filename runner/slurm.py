"""The Slurm executor: hands what is left of a study to Slurm, as one array of jobs per workload, and returns.

All state is in the results folder and in Slurm, so nothing depends on the shell that submitted. Submitting again sends only
trials that are neither finished, nor in Slurm, nor running elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner import local, locks, record, slurm_array, slurm_ledger, slurm_queue, status
from runner.profile import Profile, Resources
from runner.trial import Trial

if TYPE_CHECKING:
    from submitit import SlurmExecutor

LONGEST_LIFE = 10_000
"""Times a job may be queued again after its time limit: trials may take longer than any limit; slurm_job stops those that stand still."""
HOPELESS = "; this does not pass by itself: cancel it and correct the profile"
HELD = "; the next `slimperf sweep`, or the end of another of the study's jobs, releases it"
State = Literal["pending", "running", "lost", "cancelled"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submitted:
    """What a call has done."""

    jobs: dict[str, str]
    """Slurm's id of the job, or of the element of an array, that runs each trial handed over now."""
    finished: int
    failed: int
    """Of the finished ones, those that came to no result."""
    in_slurm: int
    """Trials that wait or run there since an earlier call."""
    elsewhere: int
    """Trials that a process outside Slurm runs at this moment."""

    def __str__(self) -> str:
        rest = {
            "finished before": self.finished - self.failed,
            "failed before (see `slimperf status`, `slimperf retry`)": self.failed,
            "in Slurm already": self.in_slurm,
            "running elsewhere": self.elsewhere,
        }
        told = "".join(f", {count} {what}" for what, count in rest.items() if count)
        arrays = sorted({job.partition("_")[0] for job in self.jobs.values()}, key=int)
        where = f" in {len(set(self.jobs.values()))} Slurm jobs ({', '.join(arrays)})" if self.jobs else ""
        return f"{len(self.jobs)} trials submitted{where}{told}"


def submit(trials: Sequence[Trial], results: Path, profile: Profile, *, fresh: bool = False) -> Submitted:
    """Hands the trials of one study to Slurm that are not taken care of yet.

    Args:
        fresh: run finished trials anew, as further attempts.

    Raises:
        ValueError: the results folder cannot be used, the devices of a trial do not fit the profile, or Slurm does not answer
            or refuses the resources.
    """
    [name] = {trial.study for trial in trials}
    study = results.resolve() / name
    _check_folder(study)
    local.prepare(study)
    jobs: dict[str, str] = {}
    with slurm_ledger.exclusive(study):
        entries = slurm_ledger.entries(study)
        tasks = slurm_queue.tasks(entry.name for entry in entries)
        slurm_queue.release(tasks)
        places = slurm_ledger.places(study, entries, tasks)
        rows = list(status.scan(study))
        finished, live, held = standing(study, places, rows)
        finished = set() if fresh else finished
        due = [trial for trial in trials if trial.id not in finished | live | held]
        for workload, group in _by_workload(due).items():
            jobs.update(_submit_array(study, workload, group, profile.for_workload(workload), fresh=fresh))
    asked = {trial.id for trial in trials}
    failed = {row.trial for row in rows if row.status in record.FAILED}
    counts = {"finished": asked & finished, "failed": asked & finished & failed, "in_slurm": asked & live, "elsewhere": asked & held}
    return Submitted(jobs=jobs, **{name: len(members) for name, members in counts.items()})


def standing(study: Path, places: Mapping[str, slurm_ledger.Place], rows: Iterable[status.Row]) -> tuple[set[str], set[str], set[str]]:
    """Trials that are finished, that are live in Slurm, and that only a process outside Slurm holds; `rows` are of `status.scan`."""
    finished, held = set(), set()
    live = {trial for trial, place in places.items() if place.live}
    for row in rows:
        if row.status in record.FINISHED:
            if not (row.trial in places and places[row.trial].retries(row.trial, row.attempt)):
                finished.add(row.trial)
        elif row.status == "running" and row.trial not in places:
            held.add(row.trial)
    for lock in (study / locks.FOLDER).glob("*.lock"):  # held before the first line of a record is written
        if lock.stem not in places and locks.owner(study, lock.stem) is not None:
            held.add(lock.stem)
    return finished, live - finished, held - finished - live


def states(study: Path, rows: Iterable[status.Row] | None = None) -> dict[str, tuple[State, str]]:
    """How each trial handed to Slurm stands that has no final result: state, and a sentence about it.

    Args:
        rows: what `status.scan` found, if that is known already.

    Raises:
        slurm_queue.Silent: Slurm does not answer.
    """
    entries = slurm_ledger.entries(study)
    places = slurm_ledger.places(study, entries, slurm_queue.tasks(entry.name for entry in entries))
    recorded = {row.trial: row for row in (status.scan(study) if rows is None else rows)}
    found = {}
    for trial, place in places.items():
        row = recorded.get(trial)
        if row is None or row.status not in record.FINISHED or place.retries(trial, row.attempt):
            found[trial] = _state(place, row.status if row else None)
    return found


def cancel(study: Path, trials: Iterable[str] | None = None) -> list[str]:
    """Ends the jobs of these trials (of all by default); returns the trials concerned.

    Other trials of the same job end with it; they are in the list.

    Raises:
        slurm_queue.Silent: Slurm does not answer.
    """
    entries = slurm_ledger.entries(study)
    with slurm_ledger.exclusive(study):
        places = slurm_ledger.places(study, entries, slurm_queue.tasks(entry.name for entry in entries))
        wanted = set(places if trials is None else trials)
        jobs = {place.task.job for trial, place in places.items() if trial in wanted and place.task and place.live}
        ended = {trial: place for trial, place in places.items() if place.task and place.task.job in jobs}
        slurm_ledger.note_cancelled(study, ended)
        slurm_queue.cancel(jobs)
    return sorted(ended)


def logs(study: Path, trial: str) -> list[Path]:
    """What the jobs of a trial wrote, oldest first."""
    found: list[Path] = []
    for entry in slurm_ledger.entries(study):
        indices = [index for index, pack in enumerate(entry.packs) if trial in pack]
        folder = slurm_ledger.home(study, entry)
        for index in indices:
            pattern = f"*_{index}_0_log.out" if len(entry.packs) > 1 else "*_0_log.out"
            found += sorted(folder.glob(pattern))
    return found


def hopeless(reason: str) -> bool:
    """Whether a sentence of `states` asks a person to act."""
    return reason.endswith((HOPELESS, HELD))


def _submit_array(study: Path, workload: str, trials: Sequence[Trial], resources: Resources, *, fresh: bool) -> dict[str, str]:
    from runner.slurm_job import Pack

    slurm_array.check(trials, resources)
    packed = slurm_array.packs(trials, slurm_array.budgets(trials), enough=resources.pack_seconds, most=slurm_queue.largest_array())
    ids = [[trial.id for trial in pack] for pack in packed]
    last = {row.trial: row.attempt for row in status.scan(study)} if fresh else {}
    again = {trial.id: last.get(trial.id, -1) for trial in trials} if fresh else {}
    entry = slurm_ledger.enter(study, workload, ids, dataclasses.asdict(resources), retried=again)
    device = "cuda:0" if resources.device == "cuda" else "cpu"  # Slurm shows the job its own GPUs alone
    calls = [
        Pack(
            results=str(study.parent),
            trials=tuple(trial.to_json() for trial in pack),
            device=device,
            threads=resources.cpus,
            nodes=resources.nodes,
            retried=tuple(again[trial.id] for trial in pack) if fresh else (),
        )
        for pack in packed
    ]
    executor = _executor(slurm_ledger.home(study, entry), resources)
    executor.update_parameters(**slurm_array.parameters(resources, entry.name))
    jobs = _sbatch(executor, calls, study, entry)
    return {trial: job for pack, job in zip(ids, jobs, strict=True) for trial in pack}


def _executor(folder: Path, resources: Resources) -> SlurmExecutor:
    from submitit import SlurmExecutor

    try:
        return SlurmExecutor(folder, max_num_timeout=LONGEST_LIFE, python=resources.python)
    except RuntimeError:
        raise slurm_queue.Silent("srun is not on this machine: run this where Slurm's commands are, or use --executor local") from None


def _sbatch(executor: SlurmExecutor, calls: Sequence[Any], study: Path, entry: slurm_ledger.Submission) -> list[str]:
    from submitit.core.utils import FailedJobError

    try:
        with _outside_of_jobs(), executor.batch():
            jobs = [executor.submit(call) for call in calls]
        return [job.job_id for job in jobs]
    except (FailedJobError, OSError) as error:
        slurm_ledger.withdraw(study, entry)
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"sbatch refused the jobs for {entry.workload}: {said}; correct the profile (--dry-run shows the script)"
        ) from None


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hides what Slurm set, should we run inside a job ourselves: its limits would become those of the new jobs."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    cluster = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(cluster)
        yield


def _by_workload(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.workload, []).append(trial)
    return groups


def _check_folder(study: Path) -> None:
    if "%" in str(study):
        raise ValueError(f"{study}: Slurm expands % in the names of log files; name a --results folder without it")


def _state(place: slurm_ledger.Place, recorded: str | None) -> tuple[State, str]:
    task = place.task
    if task is None or not task.live:
        if place.cancelled:
            return "cancelled", "the next `slimperf sweep` goes on from its checkpoint"
        how = f"its job {task.job} ended as {task.state}" if task else "Slurm no longer knows its job"
        return "lost", f"{how}; the next `slimperf sweep` goes on from its checkpoint"
    if task.waiting:
        advice = HELD if task.reason == slurm_queue.LAUNCH_FAILED else HOPELESS if task.reason in slurm_queue.HOPELESS else ""
        return "pending", f"job {task.job}: {task.reason}{advice}"
    if recorded == "running":
        return "running", f"job {task.job}"
    return "pending", f"job {task.job}: its turn in the job"
