"""Optimizer steps against the packages they are verified with: whole model, same gradients, alternating turns, no refresh.

    python tests/benchmarks/bench_steps.py [--shapes llama_60m llama_130m] [--threads 1 2] [--rounds N] [--only fira refreshes] [--write]

Ratios (their time / our time) as median and range over rounds, of processor time with one thread and wall time with more; and
refreshes against `torch.linalg.svd`. `--write` keeps results/performance/steps.csv; the exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from measured import Measured, as_trials_run, keep, missed, of
from races import RACES, Race
from torch import Tensor, nn
from torch.optim import Optimizer

from runner import catalog
from submissions import dense, engine, linalg
from submissions.base import MATRIX_ROLES
from workloads.base import Workload

RANK = {"llama_nano": 32, "llama_60m": 128, "llama_130m": 256}
"""The models of the races, and the rank of the low-rank methods on each."""
FEW_LAYERS = {"model.layers": 2, "model.vocab": 4096}
"""What slow races leave of LLaMA-60M unless models are asked for."""
REFRESHES = "refreshes"
LEAST_SECONDS = 0.1
"""Steps are repeated in a turn until they should take this long."""


class Side:
    """A model with fixed gradients, and the optimizers that step on it."""

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], Iterable[Optimizer]]) -> None:
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
        self.optimizers = list(make(model))
        self.given = [(p, p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]  # after BAdam dropped others

    def seconds(self, steps: int, clock: Callable[[], float]) -> float:
        """Of so many steps, each from the same gradients."""
        spent = 0.0
        for _ in range(steps):
            for parameter, gradient, kept in self.given:  # a step may overwrite or drop them
                parameter.grad = gradient.copy_(kept)
            began = clock()
            for optimizer in self.optimizers:
                optimizer.step()
            spent += clock() - began
        return spent


def ratios(race: Race, workload: Workload, rank: int, rounds: int, clock: Callable[[], float]) -> tuple[list[float], float]:
    """Their time over ours, a value per round, and our milliseconds a step (the median)."""
    submission = race.ours(rank)
    quotients, own = [], []
    for first in ("ours", "theirs"):  # where memory lies is worth several per cent, for as long as a pair lives
        sides: dict[str, Side] = {}
        for name in (first, "theirs" if first == "ours" else "ours"):
            model = workload.build(0, "cpu").float()
            if name == "ours":
                sides[name] = Side(submission.wrap(model, 0), lambda model: submission.optimizers(model, 0))
            else:
                sides[name] = Side(model, lambda model: race.theirs(model, rank))
            sides[name].seconds(2, clock)  # makes states and bases; SOAP moves nothing at its first step
        steps = max(1, math.ceil(LEAST_SECONDS / max(sides["ours"].seconds(1, clock), 1e-6)))
        for number in range(rounds):
            spent = {"ours": 0.0, "theirs": 0.0}
            one, other = ("ours", "theirs") if number % 2 else ("theirs", "ours")
            for name in (one, other, other, one):  # neither gains by its place
                spent[name] += sides[name].seconds(steps, clock)
            quotients.append(spent["theirs"] / spent["ours"])
            own.append(1000 * spent["ours"] / (2 * steps))
    return quotients, statistics.median(own)


def energy(P: Tensor, G: Tensor) -> float:
    """Share of the matrix's energy inside the basis."""
    return ((P.mT @ G).square().sum() / G.square().sum()).item()


def exact_refreshes(rounds: int) -> list[Measured]:
    """Our exact basis against torch.linalg.svd on the ladder's shapes."""
    found = []
    for rows, columns, rank in ((512, 512, 128), (512, 1376, 128), (768, 2048, 256), (1024, 2736, 256)):
        G = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(1))
        quotients = [timed(linalg.leading_left, G, rank, "svd") / timed(linalg.leading_left, G, rank) for _ in range(rounds)]
        same = energy(linalg.leading_left(G, rank), G) / energy(linalg.leading_left(G, rank, "svd"), G)
        found.append(of(f"eigh {rows}x{columns} r{rank} against torch.linalg.svd", quotients, "x", 2.5, f"energy {same:.6f} of the SVD's"))
    return found


def recorded(hidden: int, mlp: int, layers: int, steps: int, gap: int) -> list[tuple[Tensor, Tensor]]:
    """(Gradient, gradient `gap` steps earlier) of every matrix of a LLaMA that trains on real text with Adam."""
    shape = {"model.hidden": hidden, "model.mlp": mlp, "model.layers": layers, "model.heads": 8}
    workload = catalog.workload("llama_nano", shape)
    model, data = workload.build(0, "cpu"), workload.open_data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    kept: list[list[Tensor]] = []
    for step in range(1, steps + 1):
        (batch,) = data.micro_batches(0, step, workload.batch, "cpu")
        loss, tokens = workload.loss(model, batch)
        (loss / tokens).backward()
        if step in (steps - gap, steps):
            kept.append([member.parameter.grad.clone() for member in dense.split(model, MATRIX_ROLES)[0]])
        optimizer.step()
        optimizer.zero_grad()
    return [tuple((G if G.shape[0] < G.shape[1] else G.mT).unsqueeze(0) for G in pair) for pair in zip(kept[1], kept[0], strict=True)]


def warm_refreshes(rounds: int) -> list[Measured]:
    """One warm iteration against torch.linalg.svd: captured energy on recorded gradients, and time, stacked as the engine does it."""
    found = []
    for label, given, rank in (
        ("llama_nano, 20 steps old", recorded(128, 352, 4, 60, 20), 32),
        ("60M shapes, 20 steps old", recorded(512, 1376, 2, 40, 20), 128),
    ):
        shares = []
        for G, earlier in given:
            warm = linalg.leading_left(G, rank, "subspace", linalg.leading_left(earlier, rank))
            shares.append(energy(warm, G) / energy(linalg.leading_left(G, rank, "svd"), G))
        found.append(of(f"subspace energy, {label}, r{rank}", shares, "of the SVD's", 0.98, "a value per matrix"))
        for shape in dict.fromkeys(G.shape for G, _ in given):
            alike = [pair for pair in given if pair[0].shape == shape]
            if shape.numel() > engine.CPU_STACKED_BELOW:
                alike = alike[:1]
            G, earlier = (torch.cat(part) for part in zip(*alike, strict=True))
            P = linalg.leading_left(earlier, rank)
            pairs = (
                (timed(linalg.leading_left, G, rank, "svd"), timed(linalg.leading_left, G, rank, "subspace", P)) for _ in range(rounds)
            )
            size = "x".join(map(str, shape[1:]))
            stacked = f", {len(alike)} stacked" if len(alike) > 1 else ""
            found.append(of(f"subspace {size} r{rank}{stacked} against torch.linalg.svd", [svd / ours for svd, ours in pairs], "x", 10))
    return found


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Processor seconds, mean of a few calls."""
    began = time.process_time()
    for _ in range(3):
        work(*arguments)
    return (time.process_time() - began) / 3


def told(found: Measured) -> Measured:
    print(found, flush=True)
    return found


def steps(races: Iterable[Race], shapes: list[str] | None, threads: int, rounds: int) -> Iterator[Measured]:
    """Every race on every model, or on the one that suits its speed."""
    clock = time.process_time if threads == 1 else time.perf_counter
    for race in races:
        if race.version is None:
            print(f"left out: {race.name} against {race.package}, which is not installed")
            continue
        for name in shapes or ["llama_60m"]:
            workload = catalog.workload(name, FEW_LAYERS if race.slow and shapes is None else {})
            values, own = ratios(race, workload, RANK[name], rounds, clock)
            label = f"{race.name} against {race.package} {race.version}, {workload.name}, {threads} thread{'s' * (threads > 1)}"
            yield told(of(label, values, "x", race.goal, f"ours {own:.3g} ms"))
            gc.collect()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(RANK), help="models of all races, instead of LLaMA-60M, or a part of it")
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 2), default=[1])
    parser.add_argument("--rounds", type=int, default=2, help="with each of two pairs of models")
    parts = [*(race.name for race in RACES), REFRESHES]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--write", action="store_true", help="keep the rows in results/performance")
    options = parser.parse_args()
    as_trials_run(max(options.threads))
    rows: list[Measured] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        rows += steps((race for race in RACES if race.name in options.only), options.shapes, threads, options.rounds)
    torch.set_num_threads(1)
    if REFRESHES in options.only:
        rows += map(told, (*exact_refreshes(2 * options.rounds), *warm_refreshes(2 * options.rounds)))
    return keep("steps", rows, max(options.threads)) if options.write else missed(rows)


if __name__ == "__main__":
    sys.exit(main())
