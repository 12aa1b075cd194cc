"""Show what a study would run: trials, predicted memory, steps, and time where earlier records know it. Nothing runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner import arguments

if TYPE_CHECKING:
    from runner.trial import Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="path of a YAML file, or the name of a study that comes with SlimPerf")
    parser.add_argument("--workload", metavar="W", help="plan the study on this workload instead of its own")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where earlier records are (default: results)")
    parser.add_argument("--trials", action="store_true", help="list every trial as one line of JSON instead")
    arguments.add_overrides(parser)


def main(args: argparse.Namespace) -> int:
    from runner import study

    found = study.read(study.locate(args.study), workload=args.workload, overrides=arguments.overrides(args))
    if args.trials:
        print("\n".join(f"{trial.id} {trial.to_json()}" for trial in found))
        return 0
    return show(found, args.results)


def show(found: list[Trial], results: Path) -> int:
    """Prints the plan."""
    from runner import plan, same_data, status

    print(status.aligned(plan.table(found, results)))
    print(plan.footer(found, results))
    print("".join(f"{line}\n" for line in same_data.warnings(found)), end="", file=sys.stderr)
    return 0
