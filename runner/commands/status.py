"""Show how far the trials of a results folder are: counts by status, the running ones, and those that did not end well by name."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.slurm import State
    from runner.status import Row

SHOWN = 20
"""Trials of a kind that are named at most; the counts are of all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("results"),
        metavar="DIR",
        help="results folder, or one study's in it (default: results)",
    )
    parser.add_argument("--all", action="store_true", help="a line for every trial")


def main(args: argparse.Namespace) -> int:
    from runner import slurm, slurm_ledger, slurm_queue, status

    rows, told = [], []
    for folder in status.studies(args.results):
        found = list(status.scan(folder))
        if (folder / slurm_ledger.FOLDER).is_dir():
            try:
                states = slurm.states(folder, found)
                found = [_overlaid(row, states) for row in found]
                told.append(in_slurm(folder, states))
            except slurm_queue.Silent as error:
                told.append(f"{folder}: {error}")
        rows += found
    if args.all:
        print(status.aligned(status.details(rows)))
    else:
        print(status.aligned(status.summary(rows)))
    print("".join(f"{text}\n" for text in [*told, *running(rows, most=None if args.all else SHOWN)]), end="")
    if not args.all:
        for row in rows:
            if row.status not in ("reached", "missed", "running", "pending", "lost", "cancelled"):
                why = row.reason or "no reason recorded"
                print(f"{row.trial}: {row.submission} on {row.workload}, seed {row.seed}: {row.status}: {why}")
    return 0


def running(rows: Iterable[Row], *, most: int | None) -> list[str]:
    """A table of the trials that run: step, loss, speed, time on the clock and time to go, in one text; none if none runs."""
    from runner import locks, progress, status

    found = [row for row in rows if row.status == "running"]
    table = [["trial", *progress.Display.heads]]
    for row in found[:most]:
        watch = progress.Watch(row.trial, f"{row.submission} on {row.workload}, seed {row.seed}", row.folder)
        owner = locks.owner(row.folder, row.trial)
        with contextlib.suppress(ValueError, KeyError, OSError):  # a line that is not ours; whoever loads the record says so
            watch.look(owner.pid if owner and owner.here else 0)
        table.append([row.trial, *watch.cells()])
    table[0][1] = "running"
    more = [f"and {len(found) - most} more"] if most is not None and len(found) > most else []
    return [status.aligned(table), *more] if found else []


def in_slurm(folder: Path, states: Mapping[str, tuple[State, str]]) -> str:
    """How the trials stand that were handed to Slurm and have no final result."""
    from runner import slurm

    counts = Counter(state for state, _ in states.values())
    lines = [f"{folder}, by Slurm: {', '.join(f'{count} {state}' for state, count in sorted(counts.items())) or 'nothing left to do'}"]
    waiting = Counter(reason.rpartition(": ")[2] for state, reason in states.values() if state == "pending" and not slurm.hopeless(reason))
    if waiting:
        often = sorted(waiting.items(), key=lambda item: (-item[1], item[0]))
        lines.append(f"  they wait for: {', '.join(f'{reason} ({count})' for reason, count in often)}")
    named = {trial: told for trial, told in states.items() if told[0] in ("lost", "cancelled") or slurm.hopeless(told[1])}
    shown = list(named.items())[:SHOWN]
    lines += [f"  {trial}: {state}: {told}" for trial, (state, told) in shown]
    if len(named) > SHOWN:
        lines.append(f"  and {len(named) - SHOWN} more")
    return "\n".join(lines)


def _overlaid(row: Row, states: Mapping[str, tuple[State, str]]) -> Row:
    """What Slurm knows better: a lock on a vanished node says `running`, and what was killed or preempted may wait for its turn."""
    state, reason = states.get(row.trial, (row.status, row.reason))
    if state == row.status or (row.status == "preempted" and state in ("lost", "cancelled")):
        return row  # why it stopped is on record
    return replace(row, status=state, reason=reason)
