"""How costs grow: exponents of log-log fits of optimizer steps, probes, analysis and sweeps.

    python tests/benchmarks/bench_scale.py [--only PART ...] [--device cuda] [--rounds N] [--write]

Each curve is measured anew in every round and fitted by least squares; the exponent is that of the medians, the range that of the rounds.
R^2 tells how well one power describes the curve: a constant share bends it at the small end. Seconds are those of the processor, with one
thread; of the wall for sweeps and on a GPU. `--write` keeps results/performance/scale.csv; the exit code is 1 if a cost grows faster than
its order.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from bench_analysis import write_records
from curves import Curve, Fit, Timed, fitted, now, repeated
from measured import write
from torch import nn

from analysis import load, scores, times
from runner import local
from runner.probes import Collector
from runner.record import SCHEMA, Writer
from submissions import linalg
from submissions.adam import Adam
from submissions.base import Submission
from submissions.fira import Fira
from submissions.galore import Galore
from tests import fake_records, planning
from workloads.llama import Linear

NEVER = 10**9
LARGER_THAN_CACHES = 2**25
"""Elements of 4 bytes."""
POINTS = 100
"""Per trial."""


def step_curves(device: str) -> Iterator[Curve]:
    """One update of equal square matrices, its subspace kept; and what renewing the subspace costs."""
    ranked: dict[str, Callable[[int], Submission]] = {
        "fira": lambda rank: Fira(rank=rank, gap=NEVER),
        "galore": lambda rank: Galore(rank=rank, gap=NEVER),
    }
    for name, make in ranked.items():
        yield Curve(
            what=f"step, {name}, a 1024x1024 matrix",
            against="rank",
            sizes=(32, 64, 128, 256, 512),
            prepare=lambda rank, make=make: step(make(rank), 1, 1024, device),  # type: ignore[misc]  # a default binds the loop's value
        )
    for name, submission in {"fira": ranked["fira"](64), "galore": ranked["galore"](64), "adam": Adam()}.items():
        told = name if name == "adam" else f"{name} r64"
        yield Curve(
            what=f"step, {told}, an n x n matrix",
            against="n",
            sizes=(512, 768, 1024, 1536, 2048),
            prepare=lambda n, submission=submission: step(submission, 1, n, device),  # type: ignore[misc]
            order=2,
            reason="n x n weights: linear in their number",
        )
        yield Curve(
            what=f"step, {told}, 512x512 matrices",
            against="matrices",
            sizes=(4, 8, 16, 32, 64),
            prepare=lambda count, submission=submission: step(submission, count, 512, device),  # type: ignore[misc]
        )
    yield Curve(
        what="refresh, eigh r64, an n x n matrix",
        against="n",
        sizes=(128, 256, 512, 1024),
        prepare=lambda n: refresh(n, device),
        order=3,
        reason="Gram matrix and eigenvectors take n^3, once in `gap` steps; `projector: subspace` takes n^2 r",
    )


def step(submission: Submission, count: int, side: int, device: str) -> Timed:
    """Seconds of one update that finds in the caches what training leaves there: something else."""
    with torch.device(device):
        model = nn.ModuleList(Linear(side, side, "attn.q") for _ in range(count))
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for parameter in model.parameters():
        gradients.append(torch.randn(side, side, generator=generator).to(device))
        with torch.no_grad():
            parameter.copy_(gradients[-1])
        parameter.grad = gradients[-1].clone()
    optimizers = submission.optimizers(model, 0)
    other = torch.zeros(LARGER_THAN_CACHES, device=device)

    def once() -> float:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)  # a step may overwrite it
        other.add_(1)
        began = now(device)
        for optimizer in optimizers:
            optimizer.step()
        return now(device) - began

    return lambda: repeated(once)


def refresh(side: int, device: str) -> Timed:
    G_bmn = torch.randn(1, side, side, generator=torch.Generator().manual_seed(0)).to(device)

    def once() -> float:
        began = now(device)
        linalg.leading_left(G_bmn, 64)
        return now(device) - began

    return lambda: repeated(once)


def probe_curves(folder: Path) -> Iterator[Curve]:
    """What a step that records its probes costs beside the training."""
    yield Curve(
        what="record, three probes of each matrix",
        against="probes",
        sizes=(12, 48, 192, 768, 3072),
        prepare=lambda count: recording(count, folder),
    )


def recording(count: int, folder: Path) -> Timed:
    """Collects and writes Fira's probes of 512 columns, of which 100 are kept."""
    names = [f"layers.{number}.attn.q.weight" for number in range(count // 3)]
    probes = {"phi": torch.rand(1, 512), "phi_matrix": torch.rand(1, 1), "limiter": torch.rand(1, 1)}
    collector = Collector(folder / f"{count}.0.probes", {"schema": SCHEMA, "matrices": names}, 100)
    writer = Writer(folder / f"{count}.0.jsonl")

    def once() -> float:
        began = now()
        for name in names:
            collector(probes, [name])
        writer.write(*collector.flush(1.0, 1))
        return now() - began

    return lambda: repeated(once)


def analysis_curves(folder: Path) -> Iterator[Curve]:
    """Records to tables, and tables to a leaderboard with 1,000 bootstrap draws."""
    os.environ["SLIMPERF_CACHE"] = str(folder / "cache")
    for what, action in (("load", loading), ("score", scoring)):
        yield Curve(
            what=f"{what}, trials of {POINTS} points",
            against="points",
            sizes=tuple(POINTS * 80 * count for count in (1, 2, 4, 8, 16)),  # 80: every submission on every workload
            prepare=functools.partial(action, folder),
        )


def records(folder: Path, points: int) -> Path:
    """A study of so many points, made at first use."""
    place = folder / f"records-{points}"
    if not place.exists():
        write_records(place, points // POINTS, POINTS)
    return place


def loading(folder: Path, points: int) -> Timed:
    place = records(folder, points)

    def once() -> float:
        shutil.rmtree(folder / "cache", ignore_errors=True)  # the columnar copy that the last load has left
        began = now()
        load.study(place)
        return now() - began

    return once


def scoring(folder: Path, points: int) -> Timed:
    trials, _ = load.study(records(folder, points))

    def once() -> float:
        began = now()
        scores.leaderboard(times.studies(times.runs(trials)))
        return now() - began

    return once


def sweep_curves(folder: Path) -> Iterator[Curve]:
    """The local executor with workers that write a record and train nothing."""
    local.WORKER = fake_records.WORKER  # type: ignore[assignment]  # a stand-in of another length
    yield Curve(
        what="sweep, trivial trials, 2 workers",
        against="trials",
        sizes=(8, 16, 32, 64, 128),
        prepare=lambda count: sweep(count, 2, folder),
    )
    yield Curve(
        what="sweep, 128 trivial trials",
        against="workers (-1: twice as many, half the time)",
        sizes=(1, 2),
        prepare=lambda workers: sweep(128, workers, folder),
        order=None,
    )


def sweep(count: int, workers: int, folder: Path) -> Timed:
    trials = [planning.trial(10 + number) for number in range(count)]  # seeds below 10 misbehave

    def once() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            began = time.perf_counter()
            ended = local.run_all(trials, Path(place), workers=workers, threads=1, quiet=True)
            spent = time.perf_counter() - began
        assert all(outcome.status == "reached" for outcome in ended), ended
        return spent

    return once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("steps", "probes", "analysis", "sweeps")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--device", default="cpu", help="of the optimizer steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the rows in results/performance")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Fit] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        curves = {
            "steps": lambda: step_curves(options.device),
            "probes": lambda: probe_curves(folder),
            "analysis": lambda: analysis_curves(folder),
            "sweeps": lambda: sweep_curves(folder),
        }
        for part in options.only:
            for curve in curves[part]():
                found.append(fitted(curve, options.rounds))
                print(found[-1], flush=True)
    if options.write:
        file = "scale" if options.device == "cpu" else "scale_cuda"
        write(file, ["what", "against"], [asdict(fit) for fit in found], 1, options.device)
    return int(not all(fit.fine for fit in found))


if __name__ == "__main__":
    sys.exit(main())
