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
    folders = status.studies(args.folder, locked=True)
    if args.trials:
        _check_ids(args.trials, folders)
    for folder in folders:
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


def _check_ids(wanted: list[str], folders: list[Path]) -> None:
    from runner import locks, slurm_ledger, status

    known = {row.trial for folder in folders for row in status.scan(folder)}
    known |= {path.stem for folder in folders for path in (folder / locks.FOLDER).glob("*.lock")}
    known |= {trial for folder in folders for entry in slurm_ledger.entries(folder) for pack in entry.packs for trial in pack}
    if unknown := [given for given in wanted if not any(trial.startswith(given) for trial in known)]:
        raise ValueError(f"{unknown[0]}: no trial's id begins with it (see `slimperf status --all`)")


def _cancel_jobs(folder: Path, wanted: list[str]) -> list[str]:
    from runner import slurm

    chosen = [trial for trial in slurm.states(folder) if trial.startswith(tuple(wanted))] if wanted else None
    return [f"{trial}: its Slurm job was cancelled" for trial in slurm.cancel(folder, chosen)]
