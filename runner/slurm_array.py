"""How trials become an array of Slurm jobs: which share a job, what each job asks for, and the text that sbatch gets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import catalog
from runner.profile import Resources, minutes
from runner.trial import Trial

if TYPE_CHECKING:
    from workloads.base import Workload


def packs(trials: Sequence[Trial], seconds: Mapping[str, float], *, enough: float, most: int) -> list[list[Trial]]:
    """Trials in the order given, a list per job: together until their budgets add up to `enough`, and never more than `most` jobs.

    Args:
        seconds: time budget of each trial, by id.
    """
    packed: list[list[Trial]] = []
    filled = float("inf")
    for trial in trials:
        if filled + seconds[trial.id] > enough:
            packed.append([])
            filled = 0.0
        packed[-1].append(trial)
        filled += seconds[trial.id]
    if len(packed) <= most:
        return packed
    size = -(-len(trials) // most)
    return [list(trials[first : first + size]) for first in range(0, len(trials), size)]


def budgets(trials: Iterable[Trial]) -> dict[str, float]:
    """Time budget in seconds of each trial, by id."""
    return {trial.id: workload.budget.seconds for trial, workload in _workloads(trials)}


def check(trials: Iterable[Trial], resources: Resources) -> None:
    """Whether the devices of each trial fit the nodes and GPUs of a job.

    Raises:
        ValueError: they do not.
    """
    nodes, gpus = resources.nodes, resources.gpus
    for trial, workload in _workloads(trials):
        devices, given = workload.devices, f"{trial.workload_name}: devices = {workload.devices}"
        if devices % nodes:
            raise ValueError(f"{given}, nodes = {nodes} in the profile: expected a multiple of the nodes; set devices=... or nodes: 1")
        if gpus and devices > nodes * gpus:
            raise ValueError(f"{given}, but the profile has gpus = {gpus} on nodes = {nodes}: one for each device; raise `gpus` or `nodes`")


def _workloads(trials: Iterable[Trial]) -> Iterator[tuple[Trial, Workload]]:
    """Each trial with its workload, built once per name."""
    known: dict[str, Workload] = {}
    for trial in trials:
        name = trial.workload_name
        if name not in known:
            known[name] = catalog.workload(trial.workload, trial.overrides)
        yield trial, known[name]


def parameters(resources: Resources, name: str) -> dict[str, Any]:
    """Resources in submitit's words."""
    wanted = {key: getattr(resources, key) for key in ("partition", "account", "qos", "constraint", "gres")}
    extra = {option.replace("_", "-"): value for option, value in resources.sbatch.items() if value is not False}
    if resources.mem is not None:
        extra["mem"] = resources.mem
    return {
        **{key: value for key, value in wanted.items() if value is not None},
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        "job_name": name,
        "time": minutes(resources.limit_seconds),
        "nodes": resources.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": resources.cpus,
        "signal_delay_s": resources.signal_seconds,
        "array_parallelism": resources.array_parallelism,
        "stderr_to_stdout": True,
        # a job must be allowed to queue itself again also where the cluster's default says no
        "additional_parameters": {"requeue": True, **extra},
        # a file of the user's called like one of our packages must not stand in for it
        "setup": ["export PYTHONSAFEPATH=1", *resources.setup],
        # srun of Slurm 22.05 and later no longer takes this over from sbatch
        # and of several nodes the first one runs the job, which starts the trials' processes on all
        "srun_args": [f"--cpus-per-task={resources.cpus}", *(["--nodes=1", "--ntasks=1"] if resources.nodes > 1 else [])],
    }


def script(resources: Resources, name: str, folder: Path, jobs: int) -> str:
    """The text that sbatch gets for an array of `jobs` (or for a single job)."""
    from submitit.slurm import slurm as backend

    python = resources.python or sys.executable
    # the function that the executor itself calls: no public one gives the text without Slurm's commands on this machine
    text: str = backend._make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {folder}",
        folder=folder,
        map_count=jobs if jobs > 1 else None,
        **parameters(resources, name),
    )
    return text
