"""Print what the process of a trial wrote, and the traceback in its record if it failed."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a results folder, or one study's in it")
    parser.add_argument("trial", metavar="TRIAL", help="id, or its beginning")


def main(args: argparse.Namespace) -> int:
    from runner import local, record, slurm, status

    rows = [row for folder in status.studies(args.folder) for row in status.scan(folder) if row.trial.startswith(args.trial)]
    if len({row.trial for row in rows}) != 1:
        known = ", ".join(sorted({row.trial for row in rows})[:10]) or "none"
        raise ValueError(f"{args.trial}: expected the id of one trial in {args.folder}, or its beginning; it fits {known}")
    for row in rows:
        print(f"{row.trial}: {row.submission} on {row.workload}, seed {row.seed}: {row.status}{f': {row.reason}' if row.reason else ''}")
        for path in record.attempts(row.folder, row.trial):
            end = status.ends(path)[1] or {}
            if end.get("traceback"):
                print(f"--- traceback in {path}\n{end['traceback'].rstrip()}")
        for log in [row.folder / local.LOGS / f"{row.trial}.log", *slurm.logs(row.folder, row.trial)]:
            if log.is_file():
                print(f"--- {log}\n{log.read_text(encoding='utf-8', errors='replace').rstrip()}")
    return 0
