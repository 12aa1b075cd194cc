"""Start trials anew, from their first step, that failed, diverged or ran out of memory. Earlier attempts stay on record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import launch

if TYPE_CHECKING:
    from runner.trial import Trial

STATUSES = ("failed", "out_of_memory", "diverged", "missed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a study's folder of records")
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help="ids, or their beginnings (default: all with --status)")
    parser.add_argument("--status", nargs="+", choices=STATUSES, default=list(STATUSES[:3]), help="which to take (default: all but missed)")
    launch.add_arguments(parser, results=False)


def main(args: argparse.Namespace) -> int:
    from runner import status

    found = []
    for folder in status.studies(args.folder):
        rows = [row for row in status.scan(folder) if row.status in args.status]
        chosen = [row for row in rows if not args.trials or row.trial.startswith(tuple(args.trials))]
        found += [trial_of(row) for row in chosen]
        args.results = folder.parent
    if not found:
        named = f" and id {', '.join(args.trials)}" if args.trials else ""
        raise ValueError(
            f"{args.folder}: no trial with status {' or '.join(args.status)}{named} (see `slimperf status {args.folder} --all`)"
        )
    return launch.trials(found, args, fresh=True)


def trial_of(row: Any) -> Trial:
    """The trial of a record, as it would be planned today.

    Raises:
        ValueError: the workload or the submission is no longer what it was.
    """
    from runner import catalog, record, status
    from runner.trial import Trial, digest

    start, _ = status.ends(record.path_of(row.folder, row.trial, row.attempt))
    asked = (start or {}).get("settings", {}).get("asked")
    if start is None or asked is None:
        raise ValueError(f"{row.folder / row.trial}: its record does not say how to run it again; run its study again")
    workload = catalog.workload(asked["workload"], asked["overrides"])
    trial = Trial(
        study=row.folder.name,
        workload=asked["workload"],
        overrides=asked["overrides"],
        workload_sha256=digest([workload.spec(), catalog.workload_source_sha256(asked["workload"])]),
        submission=asked["submission"],
        hyperparameters=start["hyperparameters"],
        source_sha256=catalog.source_sha256(asked["submission"]),
        seed=start["seed"],
        ruleset=start["ruleset"],
        tuning_study=start["tuning_study"],
        tuning_trial=start["tuning_trial"],
        space=start["settings"].get("space"),
        stop=start["stop"],
        probes_every=start["settings"].get("probes_every"),
        observe=start["settings"].get("observe") or {},
        adapter=start["settings"].get("adapter") or {},
    )
    if trial.id != row.trial:
        raise ValueError(
            f"trial {row.trial} ({row.submission} on {row.workload}): its workload or the file of its submission has changed since,"
            " so this would be another trial; run its study again instead"
        )
    return trial
