"""Run one submission on one workload, over seeds. Finished trials are skipped, interrupted ones resume."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner import arguments, launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", metavar="SUBMISSION", help="name, or path of a Python file")
    parser.add_argument("--workload", required=True, metavar="W", help="name (`slimperf list workloads`), or FILE.py:NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="one trial per seed (default: 0)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyperparameters (`slimperf show SUBMISSION`)"
    )
    parser.add_argument("--stop", choices=("target", "budget"), default="target", help="end at the target (default) or at the budget's end")
    parser.add_argument("--probes-every", type=int, metavar="K", help="record the submission's probes every K steps")
    parser.add_argument("--study", default="run", metavar="NAME", help="records go to RESULTS/NAME (default: run)")
    arguments.add_adapter(parser)
    arguments.add_overrides(parser)
    launch.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from runner import study

    document = {
        "study": args.study,
        "workload": args.workload,
        "overrides": arguments.overrides(args),
        "seeds": args.seeds,
        "stop": args.stop,
        "probes_every": args.probes_every,
        "adapter": arguments.adapter(args),
        "trials": [{"submission": args.submission, "set": arguments.assignments("--set", args.set)}],
    }
    try:
        found = study.trials(document, folder=Path.cwd())
    except ValueError as error:  # a person who typed one submission has no entries
        raise ValueError(str(error).removeprefix("entry 1 of trials: ")) from None
    return launch.trials(found, args)
