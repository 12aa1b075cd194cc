"""Measures the analysis on 10,000 trials with 1,000,000 points, and on a few hundred MB of AlgoPerf logs.

    python tests/benchmarks/bench_analysis.py [--trials N] [--points N] [--megabytes N] [--keep DIR]

Prints one line per number with its bound; the exit code is 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runner import record, status

BASE = ("criteo1tb", "fastmri", "imagenet_resnet", "imagenet_vit", "librispeech_conformer", "librispeech_deepspeech", "ogbg", "wmt")
GIGABYTE = 1e9


def write_records(folder: Path, trials: int, points: int) -> None:
    """Ten submissions on eight workloads; every trial has the same number of points."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    text = "# the source of a submission\n" * 120
    for number in range(trials):
        workload, submission, seed = number % 8, number // 8 % 10, number // 80
        seconds = float(rng.uniform(5, 15) * (1 + submission / 10))
        start = record.Start(
            trial=f"{number:012x}", attempt=0, study="bench", time="2026-01-01T00:00:00+00:00", workload=f"w{workload}",
            base_workload=None, submission=f"s{submission}", seed=seed, ruleset="external", tuning_study=seed, tuning_trial=0,
            hyperparameters={"lr": 0.01, "rank": 64, "betas": [0.9, 0.999], "clip": None, "gap": 200, "schedule": "cosine"},
            target={"name": "val_loss", "value": 3.0, "mode": "min", "provisional": False, "source": ""},
            budget={"steps": 10 * points, "seconds": 100.0}, stop="target", parameters=10**6, tokens_per_step=4096,
            data={"name": "bytes", "sha256": "a" * 64}, source={"file": "s.py", "sha256": "b" * 64, "text": text},
            settings={"device": "cpu", "threads": 1}, fingerprint={"id": "f"},
        )  # fmt: skip
        lines: list[record.Line] = [start]
        for k in range(points):
            name = "val_loss" if k % 5 == 4 else "train_loss"
            lines.append(record.Point(step=10 * k, seconds=seconds * k / points, tokens=40960 * k, name=name, value=3.0 + 1.0 / (k + 1)))
        reached = {"step": 10.0 * points, "seconds": seconds, "value": 2.9} if rng.random() < 0.95 else None
        lines.append(
            record.End(
                status="reached" if reached else "missed",
                step=10 * points,
                seconds={"total": seconds, "data": 0.1, "forward_backward": seconds / 2, "update": 1.0},
                bytes={"weights": 4e6, "gradients": 4e6, "state": 8e6, "peak": 3e7 + 1e6 * submission},
                reached=reached,
            )
        )
        (folder / f"{number:012x}.0.jsonl").write_text("".join(map(record.encode, lines)), encoding="utf-8")


def write_logs(folder: Path, megabytes: int) -> Path:
    """An AlgoPerf tree of about this size with the columns of its own logs; returns the targets file."""
    rng = np.random.default_rng(0)
    names = [f"{part}/{metric}" for part in ("train", "validation", "test") for metric in ("loss", "ssim")]
    names += ["score", "accumulated_eval_time", "accumulated_logging_time", "total_duration", "global_step", "preemption_count"]
    names += [f"hyperparameter_{k}" for k in range(8)]
    rows, written, submission = 250, 0, 0
    while written < megabytes * 1e6:
        for study in range(3):
            for workload in BASE:
                for trial in range(1, 6):
                    cells = rng.random((rows, len(names)))
                    cells[:, names.index("score")] = np.arange(1, rows + 1) * 60 * rng.uniform(0.8, 1.2)
                    cells[:, names.index("validation/ssim")] = np.linspace(0, rng.uniform(0.6, 1.2), rows)
                    path = (
                        folder
                        / f"submission_{submission}"
                        / f"study_{study}"
                        / f"{workload}_jax"
                        / f"trial_{trial}"
                        / "eval_measurements.csv"
                    )
                    path.parent.mkdir(parents=True)
                    np.savetxt(path, cells, delimiter=",", header=",".join(names), comments="", fmt="%.16g")
                    written += path.stat().st_size
        submission += 1
    goals = {name: {"target_metric_name": "ssim", "validation_target_value": 0.7} for name in BASE}
    targets = folder / "targets.json"
    targets.write_text(json.dumps({"base_workloads": list(BASE), "held_out_workloads": [], "workloads": goals}))
    return targets


def measure(what: str, bound: float, action: Callable[[], object]) -> bool:
    """Prints the seconds of one call; True if they are within the bound."""
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    action()
    spent, cpu = time.perf_counter() - began, sum(os.times()[:4]) - cpu
    print(f"{what:<50} {spent:6.2f} s, {cpu:6.2f} s of CPU  (bound {bound:g} s){'' if spent <= bound else '  TOO SLOW'}", flush=True)
    return spent <= bound


def child(records: Path) -> bool:
    """The part that must stay below 2 GB, in a process of its own."""
    from analysis import load, pareto, report, scores, times

    fine = [measure("load, first time", 5.0, lambda: load.study(records))]
    fine.append(measure("load, from the columnar copy", 1.0, lambda: load.study(records)))
    trials, points = load.study(records)
    fine.append(measure("scores with 1,000 bootstrap draws", 2.0, lambda: scores.leaderboard(times.studies(times.runs(trials)))))
    fine.append(measure("score against memory cap", 10.0, lambda: pareto.curve(trials)))
    fine.append(measure("status of all trials", 2.0, lambda: list(status.scan(records))))

    def page() -> str:
        digest = report.digest(trials, points)
        return report.html(digest, report.contents(digest), title="bench")

    fine.append(measure("report", 30.0, page))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE
    print(f"{'peak memory':<50} {peak:6.2f} GB (bound 2 GB){'' if peak < 2 else '  TOO MUCH'}")
    return all(fine) and peak < 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=100, help="per trial")
    parser.add_argument("--megabytes", type=int, default=300, help="of AlgoPerf logs")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return 0 if child(args.child) else 1
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        os.environ["SLIMPERF_CACHE"] = str(home / "cache")
        fine = True
        for points in (args.points, args.points // 2):  # cost linear in points: the second is to take about half
            records = home / f"records-{points}"
            write_records(records, args.trials, points)
            print(f"\n{args.trials:,} trials with {args.trials * points:,} points")
            fine &= subprocess.run([sys.executable, __file__, "--child", str(records)], check=False).returncode == 0
        targets = write_logs(home / "logs", args.megabytes)
        size = sum(path.stat().st_size for path in (home / "logs").rglob("*.csv")) / 1e6
        command = [sys.executable, "-m", "runner.cli", "score", "--format", "algoperf", str(home / "logs"), "--targets", str(targets)]
        print(f"\n{size:.0f} MB of AlgoPerf logs")
        run = functools.partial(subprocess.run, command, check=True, capture_output=True)
        fine &= measure("slimperf score --format algoperf, whole process", 10.0, run)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
