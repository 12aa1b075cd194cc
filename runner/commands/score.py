"""Rank submissions by time to target: the leaderboard with intervals, from our records or from AlgoPerf's logs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_POWER_LINES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="results root, study folder, or AlgoPerf's folder of submissions")
    parser.add_argument("--format", choices=["slimperf", "algoperf"], default="slimperf", help="whose files are in DIR (default: slimperf)")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="workloads and targets of AlgoPerf's logs, JSON")
    parser.add_argument("--ruleset", choices=["external", "self"], help="rank only trials of this ruleset (default: each by itself)")
    parser.add_argument("--workloads", nargs="+", metavar="W", help="score these workloads only")
    parser.add_argument("--reference", metavar="NAME", help="add the geometric-mean speed-up over this submission")
    parser.add_argument("--memory-cap", type=float, metavar="GB", help="count trials that need more than this as missed (1 GB = 1e9 bytes)")
    parser.add_argument(
        "--measure", choices=["seconds", "steps"], default="seconds", help="default: seconds; steps compare across machines"
    )
    parser.add_argument("--rmax", type=float, default=4.0, help="ratio to the fastest beyond which a time is a miss (4)")
    parser.add_argument(
        "--rule",
        choices=["time", "index"],
        default="time",
        help="AlgoPerf: a study's best trial by time (default), or as its code picks it",
    )
    parser.add_argument("--trapezoid", action="store_true", help="add the score integrated on AlgoPerf's grid of 100 points")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws; 0 leaves intervals out (1000)")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write the leaderboard as CSV")


def main(args: argparse.Namespace) -> int:
    import pandas as pd

    _check(args)
    boards, problems = _algoperf(args) if args.format == "algoperf" else _records(args)
    if args.csv:
        table = pd.concat([board.assign(**labels) for labels, board, _ in boards], ignore_index=True)
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.csv, index=False, lineterminator="\n")
    for labels, board, cells in boards:
        print("  ".join(f"{name}: {value}" for name, value in labels.items() if value), end="\n\n")
        _show(board.rename(columns={"low": "score_low", "high": "score_high"}))
        print()
        _show(cells)
        print("\n" + "".join(f"- {note}\n" for note in board.attrs["notes"]))
    if problems:
        print("records:\n" + "".join(f"- {problem}\n" for problem in problems))
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.draws < 0:
        raise ValueError(f"--draws {args.draws}: expected 0 or more")
    if args.format == "algoperf":
        if args.memory_cap is not None:
            raise ValueError("--memory-cap: AlgoPerf's logs hold no memory; leave it out")
        if args.targets is None:
            raise ValueError("--format algoperf: expected --targets FILE.json with the workloads and their targets")
    elif args.targets is not None or args.rule != "time":
        raise ValueError("--targets and --rule are for --format algoperf; our records hold their targets")


def _records(args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    from analysis import identity, load, notes, pareto, times

    trials = identity.settled(load.study(args.dir)[0])
    problems, everything = [*trials.attrs["replaced"], *trials.attrs["problems"]], trials
    warnings = notes.conditions(trials)
    trials = trials[trials["target_value"].notna()]
    if args.ruleset:
        trials = trials[trials["ruleset"] == args.ruleset]
    if trials.empty:
        rulesets = ", ".join(sorted(everything["ruleset"].unique()))
        raise ValueError(f"{args.dir}: nothing to score among {len(everything)} trials (rulesets: {rulesets}); a trial needs a target")
    cap = float("inf") if args.memory_cap is None else args.memory_cap * times.GIGABYTE
    if not cap > 0:
        raise ValueError(f"--memory-cap {args.memory_cap}: expected a positive number of GB")
    boards = []
    for ruleset, fingerprint, part in times.groups(trials, measure=args.measure):
        studies = times.studies(times.runs(part, measure=args.measure, cap=cap))
        extra = [*times.repeated(part), *(pareto.cap_notes(part, cap) if args.memory_cap is not None else []), *warnings]
        labels = {"ruleset": ruleset, "fingerprint": fingerprint, "measure": args.measure}
        boards.append((labels, *_board(args, studies, extra, args.workloads, None)))
    return boards, problems


def _algoperf(args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    from analysis import algoperf, times

    targets = algoperf.targets(args.targets)
    runs = algoperf.runs(args.dir, targets, rule=args.rule, measure=args.measure)
    extra = runs.attrs["notes"]
    if args.ruleset == "self":
        runs = runs.assign(study=runs["study"] + "/" + runs["trial"])
    board = _board(args, times.studies(runs), extra, args.workloads or targets.base, targets.variants)
    return [({"ruleset": args.ruleset or "external", "measure": args.measure}, *board)], []


def _board(
    args: argparse.Namespace, studies: pd.DataFrame, extra: list[str], workloads: Sequence[str] | None, variants: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The leaderboard with all its notes, and the times it comes from."""
    from analysis import power, scores

    if workloads is not None and (unknown := sorted({*(args.workloads or ())} - set(studies["workload"]))):
        raise ValueError(f"--workloads {unknown[0]}: nobody ran it; there are {', '.join(sorted(set(studies['workload'])))}")
    scope = {"workloads": workloads, "variants": variants, "r_max": args.rmax}
    board = scores.leaderboard(studies, **scope, draws=args.draws, reference=args.reference, trapezoid=args.trapezoid)
    lines: list[str] = []
    if args.draws and len(board) > 1 and "p_first" in board:
        lines = power.line(power.seeds(studies, **scope, draws=args.draws))[:MOST_POWER_LINES]
    board.attrs["notes"] = [*board.attrs["notes"], *lines, *extra]
    names = sorted(set(studies["workload"]))
    cells = scores.matrix(studies, board["submission"].tolist(), names)
    unit = "seconds" if args.measure == "seconds" else "step"
    return board, cells.rename(columns={name: f"{name} {unit}" for name in names}).rename_axis(columns=None).reset_index()


def _show(table: pd.DataFrame) -> None:
    """Aligned columns; with rules and colours if somebody looks."""
    from analysis import render

    if not sys.stdout.isatty():
        print(render.text(table), end="")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = render.layout(table)
    rich = Table(header_style="bold")
    for heading, right in zip(cells.headings, cells.numeric, strict=True):
        rich.add_column(heading, justify="right" if right else "left")
    for row in cells.rows:
        rich.add_row(*map(Text, row))
    Console().print(rich)
