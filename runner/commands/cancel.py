"""Stop running trials gently: they write a checkpoint, end as `preempted`, and the next call goes on from there."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a results folder, or one study's in it")
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help="ids, or their beginnings (default: all, and the calls that run them)")


def main(args: argparse.Namespace) -> int:
    from runner import locks, slurm_ledger, status

    stopped, foreign = [], []
    for folder in status.studies(args.folder, locked=True):
        if (folder / slurm_ledger.FOLDER).is_dir():
            stopped += _cancel_jobs(folder, args.trials)
        held = {path.stem: locks.owner(folder, path.stem) for path in sorted((folder / locks.FOLDER).glob("*.lock"))}
        for name, owner in held.items():
            if owner is None or not name.startswith(tuple(args.trials or [""])):
                continue
            if not owner.here:
                foreign.append(f"{name}: {owner}; cancel it there")
                continue
            os.kill(owner.pid, signal.SIGTERM)
            stopped.append(f"{name}: {owner} was asked to stop")
    print("\n".join([*stopped, *foreign]) or "nothing is running")
    return 1 if foreign else 0


def _cancel_jobs(folder: Path, wanted: list[str]) -> list[str]:
    from runner import slurm

    chosen = [trial for trial in slurm.states(folder) if trial.startswith(tuple(wanted))] if wanted else None
    return [f"{trial}: its Slurm job was cancelled" for trial in slurm.cancel(folder, chosen)]
