"""Optimizer steps against the authors' packages: whole model, same gradients, alternating rounds, no refresh.

    python tests/benchmarks/bench_steps.py [--sizes 60m 130m] [--threads 1 2] [--rounds N]

Ratios (package time / our time) as median and range over rounds, of processor time with one thread and wall time with more; and
refreshes against `torch.linalg.svd`. Writes results/performance/steps.csv; the exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from measured import Measured, keep, of
from torch import Tensor, nn
from torch.optim import Optimizer

from runner import catalog
from submissions import dense, linalg
from submissions.adam import Adam
from submissions.apollo import Apollo
from submissions.base import MATRIX_ROLES, Submission
from submissions.fira import Fira
from submissions.galore import Galore

NEVER = 10**9
RANK = {"60m": 128, "130m": 256}


@dataclass(frozen=True)
class Race:
    """One of ours against one of theirs."""

    name: str
    package: str
    goal: float
    ours: Callable[[int], Submission]
    theirs: Callable[[nn.Module, int], Optimizer]


def groups(model: nn.Module, **options: object) -> list[dict[str, object]]:
    matrices, rest = dense.split(model, MATRIX_ROLES)
    return [{"params": [m.parameter for m in matrices], **options}, {"params": [m.parameter for m in rest]}]


def fira_package(model: nn.Module, rank: int) -> Optimizer:
    from fira import FiraAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "alpha": 0.25, "proj_type": "std"}
    return FiraAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)


def galore_package(model: nn.Module, rank: int) -> Optimizer:
    from galore_torch import GaLoreAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "scale": 0.25, "proj_type": "std"}
    return GaLoreAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)


def apollo_package(model: nn.Module, rank: int) -> Optimizer:
    from apollo_torch import APOLLOAdamW

    options = {"rank": rank, "update_proj_gap": NEVER, "scale": 1, "proj": "random", "proj_type": "std", "scale_type": "channel"}
    return APOLLOAdamW(groups(model, **options), lr=1e-2, no_deprecation_warning=True)


RACES = (
    Race("fira", "fira", 2.5, lambda r: Fira(rank=r, gap=NEVER), fira_package),
    Race("galore", "galore_torch", 1.8, lambda r: Galore(rank=r, gap=NEVER), galore_package),
    Race("apollo", "apollo_torch", 1.8, lambda r: Apollo(rank=r, gap=NEVER), apollo_package),
    Race("adam", "torch", 0.97, lambda r: Adam(), lambda model, r: torch.optim.AdamW(model.parameters(), fused=True)),
)


def prepared(size: str) -> nn.Module:
    """The model with fixed gradients of a decaying spectrum."""
    model = catalog.workload(f"llama_{size}").build(0, "cpu").float()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    return model


def ratio(race: Race, size: str, rounds: int, clock: Callable[[], float]) -> list[float]:
    """Their time over ours, a value per round."""
    sides: list[tuple[nn.Module, Iterable[Optimizer]]] = []
    ours, theirs = prepared(size), prepared(size)
    sides.append((ours, race.ours(RANK[size]).optimizers(ours, 0)))
    sides.append((theirs, [race.theirs(theirs, RANK[size])]))
    found = []
    for number in range(rounds + 1):
        spent = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            model, optimizers = sides[side]
            kept = [parameter.grad for parameter in model.parameters()]
            copies = [gradient.clone() for gradient in kept if gradient is not None]  # a step may overwrite them
            began = clock()
            for optimizer in optimizers:
                optimizer.step()
            spent[side] = clock() - began
            for parameter, copy in zip(model.parameters(), copies, strict=True):
                parameter.grad = copy
        if number:  # the first round makes states and bases
            found.append(spent[1] / spent[0])
    return found


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
    """One warm iteration against torch.linalg.svd: time, and captured energy on recorded gradients."""
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
        for number in (0, 4):
            G, earlier = given[number]
            P = linalg.leading_left(earlier, rank)
            pairs = (
                (timed(linalg.leading_left, G, rank, "svd"), timed(linalg.leading_left, G, rank, "subspace", P)) for _ in range(rounds)
            )
            size = "x".join(map(str, G.shape[1:]))
            found.append(of(f"subspace {size} r{rank} against torch.linalg.svd", [svd / ours for svd, ours in pairs], "x", 10))
    return found


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Processor seconds, mean of a few calls."""
    began = time.process_time()
    for _ in range(3):
        work(*arguments)
    return (time.process_time() - began) / 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["60m"], choices=list(RANK))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows: list[Measured] = []

    def told(found: Measured) -> None:
        rows.append(found)
        print(found, flush=True)

    for threads in options.threads:
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        for size in options.sizes:
            for race in RACES:
                if importlib.util.find_spec(race.package) is None:
                    print(f"left out: {race.name} against {race.package}, which is not installed")
                    continue
                values = ratio(race, size, options.rounds, clock)
                told(of(f"{race.name} {size} against {race.package}, {threads} threads", values, "x", race.goal))
                gc.collect()
    torch.set_num_threads(1)
    for found in (*exact_refreshes(options.rounds), *warm_refreshes(options.rounds)):
        told(found)
    return keep("steps", rows, max(options.threads))


if __name__ == "__main__":
    sys.exit(main())
