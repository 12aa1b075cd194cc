"""What Slurm says about jobs, from `squeue` alone: accounting (`sacct`) is neither needed nor asked.

Jobs are asked for by name, which holds a random token, and never by number: a number comes again in another cluster,
and one given out shortly before a crash of the controller comes again in the same.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ACTIVE = frozenset({"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "PREEMPTED"})
LAUNCH_FAILED = "launch failed requeued held"
"""Reason of a job whose node failed just when it began: Slurm queues it again and holds it until somebody releases it."""
HOPELESS = frozenset(
    {
        "DependencyNeverSatisfied",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "BadConstraints",
        "JobHeldAdmin",
        "AccountNotAllowed",
        "QOSNotAllowed",
    }
    | {"InvalidAccount", "InvalidQOS", "AssocMaxJobsLimit"}
)
"""Reasons of a waiting job that time alone does not remove."""
PATIENCE = 60
"""Seconds that a client of Slurm may take; a dead controller makes it give up by itself after about ten."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One job, or one element of a job array."""

    name: str
    job: str
    """`12`, or `12_3` in an array: what scancel takes."""
    index: int
    """Place in the array; 0 for a single job."""
    state: str
    reason: str

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def live(self) -> bool:
        """It runs, or will by itself."""
        return self.state in WAITING or self.state in ACTIVE


class Silent(ValueError):
    """Slurm did not answer, so nothing is known: neither that a job runs nor that it does not."""


def tasks(names: Iterable[str]) -> list[Task]:
    """All tasks with these job names that Slurm still knows, ended ones for some minutes too.

    Raises:
        Silent: the controller did not answer.
    """
    wanted = sorted(set(names))
    if not wanted:
        return []
    # %j comes last: the only column that may hold any character
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(wanted)}", "--format=%F|%K|%T|%r|%j")
    return [_task(line) for line in answer.splitlines() if line]


def running_elsewhere(job: str) -> bool:
    """Whether Slurm has this job (`12_3`) running now.

    Raises:
        Silent: the controller did not answer.
    """
    try:
        answer = _ask("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%T")
    except Silent as silent:
        if "Invalid job id" in str(silent):
            return False
        raise
    return any(state in ACTIVE for state in answer.split())


def cancel(jobs: Iterable[str]) -> None:
    """Ends jobs; those that are over already are no error.

    Raises:
        Silent: the controller did not answer.
    """
    wanted = sorted(set(jobs))
    for first in range(0, len(wanted), 500):  # a command line has a limit
        _ask("scancel", "--quiet", *wanted[first : first + 500])


def release(found: Iterable[Task]) -> list[str]:
    """Lets those tasks queue again that Slurm holds because a node failed at their launch; a person's hold stays.

    Raises:
        Silent: the controller did not answer.
    """
    held = sorted({task.job for task in found if task.reason == LAUNCH_FAILED})
    for first in range(0, len(held), 500):
        _ask("scontrol", "release", *held[first : first + 500])
    return held


def largest_array() -> int:
    """Most tasks that an array may have here; Slurm's default where it does not say."""
    try:
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    except Silent:
        found = None
    return int(found[1]) if found else 1001


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError:
        raise Silent(f"{command[0]} is not on this machine: run this where Slurm's commands are, or use --executor local") from None
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} gave no answer in {PATIENCE} s: Slurm's controller is busy or down; try again later") from None
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise Silent(f"{command[0]} failed ({said}): if Slurm's controller is down, jobs go on meanwhile; try again later")
    return done.stdout


def _task(line: str) -> Task:
    array, index, state, reason, name = line.split("|", 4)
    single = not index.isdigit()
    return Task(name=name, job=array if single else f"{array}_{index}", index=0 if single else int(index), state=state, reason=reason)
