"""Run every trial of a study. Finished trials are skipped, interrupted ones resume, failures do not stop the others."""

from __future__ import annotations

import argparse

from runner import arguments, launch
from runner.commands import plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="path of a YAML file, or the name of a study that comes with SlimPerf")
    parser.add_argument("--workload", metavar="W", help="run the study on this workload instead of its own")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and run nothing")
    arguments.add_overrides(parser)
    launch.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from runner import study

    found = study.read(study.locate(args.study), workload=args.workload, overrides=arguments.overrides(args))
    if not args.dry_run:
        # Breadth first: a call that is cut short leaves every submission of a tuned study with as many trials.
        found.sort(key=lambda trial: (trial.tuning_study, trial.tuning_trial))
        return launch.trials(found, args)
    plan.show(found, args.results)
    if args.executor == "slurm":
        from runner import slurm_plan

        print(slurm_plan.text(found, args.results, launch.resources(args)))
    return 0
