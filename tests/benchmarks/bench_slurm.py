"""The Slurm executor against bare submitit, and the size of study that it can handle.

    python tests/benchmarks/bench_slurm.py [--trials 100]

Needs the Slurm packages; starts a throw-away cluster. Prints each number beside its goal; the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import slurm as tools

from runner import local, record, slurm, slurm_array, slurm_ledger, slurm_queue
from runner.commands import status
from runner.profile import Profile, Resources
from runner.trial import Trial

README = Path(__file__).parents[2] / "results" / "README.md"
AT_ONCE = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    count = parser.parse_args().trials
    if not tools.INSTALLED:
        print(tools.MISSING)
        return 0
    missed = [not good("status of 10,000 trials, seconds", status_seconds(), 2.0)]
    with tempfile.TemporaryDirectory(prefix="slimperf-bench-", ignore_cleanup_errors=True) as place, tools.running(Path(place)):
        folder = Path(place)
        missed.append(not good("submission of 1,000 trials, seconds", submission_seconds(folder), 30.0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        missed.append(not good("peak memory of the submitting process, MB", peak, 300.0))
        ours, bare = sweep_seconds(folder, count), bare_seconds(folder, count)
        missed.append(not good(f"array of {count} trials, ours {ours:.1f} s / bare submitit {bare:.1f} s", ours / bare, 1.25))
    return int(any(missed))


def good(what: str, value: float, goal: float) -> bool:
    print(f"{what}: {value:.3g} (goal: at most {goal:g}){'' if value <= goal else '  MISSED'}", flush=True)
    return value <= goal


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def plain(study: str, count: int) -> list[Trial]:
    return [Trial(study=study, workload="llama_nano", submission="adam", hyperparameters={"lr": 1e-3}, seed=seed) for seed in range(count)]


def status_seconds() -> float:
    """Half of the trials recorded, half waiting; Slurm's own answer is written out beforehand."""
    [start] = [record.decode(line) for line in README.read_text().splitlines() if line.startswith('{"kind":"start"')]
    trials = plain("large", 10_000)
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "large"
        entry = slurm_ledger.enter(study, "llama_nano", [[trial.id for trial in trials[i : i + 10]] for i in range(0, 10_000, 10)], {})
        for trial in trials[:5000]:
            assert isinstance(start, record.Start)
            lines = (
                dataclasses.replace(start, trial=trial.id, attempt=0),
                record.End(status="missed", step=9, seconds={"total": 1.0}, bytes={}),
            )
            record.path_of(study, trial.id, 0).write_text("".join(map(record.encode, lines)))
        answer = "".join(f"1|{index}|PENDING|Priority|{entry.name}\n" for index in range(1000))
        before, slurm_queue._ask = slurm_queue._ask, lambda *_: answer
        try:
            return timed(lambda: status.main(argparse.Namespace(results=study, all=False)))
        finally:
            slurm_queue._ask = before


def submission_seconds(folder: Path) -> float:
    """To jobs that Slurm keeps waiting."""
    trials = plain("many", 1000)
    taken = timed(lambda: slurm.submit(trials, folder, Profile(default=Resources(sbatch={"hold": True}))))
    slurm.cancel(folder / "many")
    return taken


def sweep_seconds(folder: Path, count: int) -> float:
    trials = tools.tiny("ours", seeds=count, folder=folder, steps=1)
    profile = Profile(default=Resources(time="10m", mem="1500M", array_parallelism=AT_ONCE))
    return timed(lambda: (slurm.submit(trials, folder, profile), wait(folder, trials)))


def bare_seconds(folder: Path, count: int) -> float:
    """The same trials, each a function that submitit runs."""
    from submitit import SlurmExecutor

    trials = tools.tiny("bare", seeds=count, folder=folder, steps=1)
    executor = SlurmExecutor(folder / "submitit")
    executor.update_parameters(
        **slurm_array.parameters(
            Resources(time="10m", mem="1500M", array_parallelism=AT_ONCE, setup=(f"export PYTHONPATH={tools.SCRIPT.parent}",)), "bare"
        )
    )
    local.prepare(folder / "bare")

    def sweep() -> None:
        with executor.batch():
            for trial in trials:
                executor.submit(tools.bare, trial.to_json(), str(folder))
        wait(folder, trials)

    return timed(sweep)


def wait(folder: Path, trials: Sequence[Trial]) -> None:
    tools.until(lambda: all(tools.ends(folder / trial.study, trial) for trial in trials), seconds=3600, what="all trials have ended")


if __name__ == "__main__":
    sys.exit(main())
