"""What the harness costs: bookkeeping, clock, start-up, prediction, planning, noise.

    python tests/benchmarks/bench_harness.py [--seeds N]

Every number is a ratio or a share measured in this run; prints one line per number with its bound; the exit code is 1 if a bound is
broken. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from runner import catalog, hyperparameters, memory, record, study, train
from runner.trial import Trial
from submissions.adam import Adam
from submissions.fira import Fira


@dataclass
class Result:
    name: str
    value: float
    bound: float
    note: str = ""

    @property
    def fine(self) -> bool:
        return self.value <= self.bound

    def __str__(self) -> str:
        return f"{'ok  ' if self.fine else 'MISS'} {self.name}: {self.value:.4g} (goal <= {self.bound:g}) {self.note}".rstrip()


def trial_of(seed: int = 0, **overrides: object) -> Trial:
    chosen = hyperparameters.values(Adam(lr=6e-3))
    return Trial(
        study="bench", workload="llama_nano", overrides=overrides, submission="adam", hyperparameters=chosen, seed=seed, stop="budget"
    )


def ended(results: Path, trial: Trial) -> record.End:
    line = list(record.lines(record.attempts(results / "bench", trial.id)[-1]))[-1]
    assert isinstance(line, record.End), line
    return line


def bookkeeping() -> list[Result]:
    """The harness's own segments over step time, and the parts of the clock against a stopwatch around the whole."""
    with tempfile.TemporaryDirectory() as folder:
        trial = trial_of(steps=60)
        began = time.perf_counter()
        train.execute(trial, Path(folder))
        wall = time.perf_counter() - began
        seconds = ended(Path(folder), trial).seconds
    own = seconds["off.record"] + seconds["other"]
    parts = sum(value for name, value in seconds.items() if name not in ("total", "cpu"))
    return [
        Result("bookkeeping over step time", own / seconds["total"], 1e-3, note=f"({1e6 * own / 60:.0f} microseconds a step)"),
        Result("|parts of the clock / wall - 1|", abs(parts / wall - 1), 0.01, note="building included"),
    ]


def startup() -> list[Result]:
    """Seconds of `slimperf --help`, and whether analysis stays without torch."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "runner.cli", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    code = "import sys, analysis.load, analysis.scores; sys.exit('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=False).returncode
    return [Result("seconds of slimperf --help", statistics.median(times), 0.3), Result("import analysis loads torch", loaded, 0)]


def prediction() -> Result:
    workload = catalog.workload("llama_7b")
    began = time.perf_counter()
    memory.predict(Fira(rank=64), workload)
    return Result("seconds to predict memory at 7B", time.perf_counter() - began, 2.0)


def planning() -> Result:
    entry = {"submission": "fira", "sweep": {"rank": [4, 8, 16, 32], "alpha": [0.25, 0.5, 0.75, 1.0, 2.0], "gap": [20, 50, 100, 200, None]}}
    document = {"study": "plan", "workload": "llama_nano", "seeds": list(range(100)), "trials": [entry]}
    began = time.perf_counter()
    found = study.trials(document, folder=Path.cwd())
    assert len({trial.id for trial in found}) == len(found) == 10_000
    return Result("seconds to plan 10,000 trials", time.perf_counter() - began, 2.0)


def noise(seeds: int) -> Result:
    """Coefficient of variation of the steps to target over seeds."""
    with tempfile.TemporaryDirectory() as folder:
        steps = []
        for seed in range(seeds):
            trial = trial_of(seed)
            train.execute(trial, Path(folder))
            reached = ended(Path(folder), trial).reached
            steps.append(reached["step"] if reached else float("inf"))
    variation = statistics.stdev(steps) / statistics.mean(steps)
    return Result(f"variation of steps to target over {seeds} seeds", variation, 0.06, note=f"steps {sorted(steps)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="0 leaves the noise of steps to target out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [*startup(), prediction(), planning(), *bookkeeping()]
    if options.seeds:
        results.append(noise(options.seeds))
    print(*results, sep="\n")
    return 0 if all(result.fine for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
