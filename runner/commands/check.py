"""Run the contract on a submission: zero gradient, shapes, tensors only, save and load, same seed same bits, memory."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", metavar="FILE", help="path of a Python file, or the name of a submission")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyperparameters other than the defaults"
    )


def main(args: argparse.Namespace) -> int:
    import torch

    from runner import check, study

    torch.set_num_threads(1)
    submission = study.placed(args.submission, Path.cwd())
    trial = check.trial_of(submission, arguments.assignments("--set", args.set))
    kept = True
    for finding in check.contract(trial):
        kept = kept and finding.problem is None
        print(f"{'ok   ' if finding.problem is None else 'WRONG'}  {finding.clause}: {finding.problem or finding.note}", flush=True)
    if not kept:
        raise ValueError(f"{args.submission} does not keep the contract: see WRONG above")
    print(f"{trial.submission_name} keeps the contract; try it: slimperf run {args.submission} --workload {check.WORKLOAD}")
    return 0
