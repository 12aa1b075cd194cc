"""What a submission to Slurm would be, before it is one: jobs, hours, memory against the card, and the script for sbatch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner import plan, slurm_array, slurm_queue, status
from runner.profile import Profile, Resources, memory
from runner.trial import Trial


def text(trials: Sequence[Trial], results: Path, profile: Profile) -> str:
    """For each workload: the size of its array, the most it can cost, whether it fits, and the text that sbatch gets."""
    parts = []
    most = slurm_queue.largest_array()
    for workload in dict.fromkeys(trial.workload for trial in trials):
        members = [trial for trial in trials if trial.workload == workload]
        resources = profile.for_workload(workload)
        seconds = slurm_array.budgets(members)
        jobs = slurm_array.packs(members, seconds, enough=resources.pack_seconds, most=most)
        folder = (results / members[0].study).resolve()
        lines = [f"# {workload}: {cost(len(members), len(jobs), sum(seconds.values()), resources)}"]
        lines += [f"# {line}" for line in fit(members, resources)]
        parts.append("\n".join([*lines, slurm_array.script(resources, f"slimperf-{members[0].study}", folder, len(jobs))]))
    return "\n".join(parts)


def cost(trials: int, jobs: int, seconds: float, resources: Resources) -> str:
    """Trials, jobs, and what the time budgets add up to in hours of GPUs, or of cores where there are none."""
    gpus = resources.gpus * resources.nodes
    hours = seconds / 3600 * (gpus or resources.cpus * resources.nodes)
    at_once = min(jobs, resources.array_parallelism)
    return f"{trials} trials in {jobs} jobs, {at_once} at once; at most {hours:.4g} {'GPU' if gpus else 'core'}-hours on the clock"


def fit(trials: Sequence[Trial], resources: Resources) -> list[str]:
    """A line on the largest predicted memory, held against the card (`gpu_memory`) or, on a CPU, the job's (`mem`)."""
    distinct = {(trial.submission, repr(trial.hyperparameters), trial.workload_name): trial for trial in trials}
    needs = [(sizes["total"], trial) for trial in list(distinct.values())[: plan.CHECKED] if (sizes := plan.predicted(trial))]
    if not needs:
        return []
    largest, trial = max(needs, key=lambda need: need[0])
    name, given = ("gpu_memory", resources.gpu_memory) if resources.device == "cuda" else ("mem", resources.mem)
    said = f"largest predicted memory {status.megabytes(float(largest))} ({trial.submission_name})"
    if given is None:
        return [f"{said}; give `{name}` in the profile to hold it against what the job has"]
    verdict = "fits into" if largest <= memory(name, given) else "DOES NOT FIT into"
    return [f"{said} {verdict} {name} = {given}"]
