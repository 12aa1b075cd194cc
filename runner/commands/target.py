"""Set a workload's target: tune a baseline over a space, rerun the best with fresh seeds, freeze the median.

Everything is resumable: trials that are on record are not run again. The file `targets/WORKLOAD.yaml` keeps the provenance; that of a
workload of your own file, or of a changed one, goes to --out, and such a file loads it with `workloads.targets.load_target`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runner import arguments, launch

if TYPE_CHECKING:
    from runner.target import Baseline
    from runner.trial import Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="W", help="workload whose target is set")
    parser.add_argument("--submission", default="adam", help="the baseline (default: adam)")
    parser.add_argument(
        "--space", nargs="+", default=["lr=log:1e-3:1e-1"], metavar="NAME=RANGE", help="lr=log:1e-3:1e-1 (default), rank=values:4,16, ..."
    )
    parser.add_argument("--points", type=int, default=8, metavar="N", help="trials of the search (default: 8)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="SEED", help="seeds of the final runs (default: 1 to 5)"
    )
    parser.add_argument(
        "--fraction", type=float, default=0.75, metavar="F", help="share of the step budget that the baseline gets (default: 0.75)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the target file (default, of our own: the package's)")
    arguments.add_overrides(parser)
    launch.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from runner import search, target
    from workloads import targets

    if not 0 < args.fraction <= 1 or args.points < 1:
        raise ValueError(f"--fraction {args.fraction:g} --points {args.points}: expected a fraction in (0, 1] and at least one point")
    overrides = arguments.overrides(args)
    chosen = target.described(args.workload, overrides)
    folder = target.folder(args.workload, overrides, args.out)
    baseline = target.Baseline(
        submission=args.submission,
        space=search.from_text(args.space),
        points=args.points,
        seeds=tuple(args.seeds),
        fraction=args.fraction,
    )
    trials = target.search(args.workload, overrides, baseline)
    if code := launch.trials(trials, args):
        return code
    winner, value = target.best(trials, args.results, chosen, baseline)
    print(f"best point: {named(winner, baseline)} with {value:.4f}; now {len(args.seeds)} seeds of it")
    again = target.repeats(args.workload, overrides, baseline, winner)
    if code := launch.trials(again, args):
        return code
    values = {trial.seed: target.best_value(trial, args.results, chosen) for trial in again}
    searched = {named(trial, baseline): target.best_value(trial, args.results, chosen) for trial in trials}
    frozen, provenance = target.freeze(chosen, baseline, winner, searched, values)
    path = targets.save_target(chosen.name, frozen, provenance, folder)
    print(f"target of {chosen.name}: {frozen.metric} {'<=' if frozen.mode == 'min' else '>='} {frozen.value:g}, written to {path}")
    return 0


def named(trial: Trial, baseline: Baseline) -> str:
    """The point of the search that a trial stands for."""
    return ", ".join(f"{name}={trial.hyperparameters[name]:.4g}" for name in baseline.space)
