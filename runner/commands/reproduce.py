"""Make a published table or figure again, at any scale, beside the paper's numbers, with a verdict on each claim."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import arguments, launch

if TYPE_CHECKING:
    import pandas as pd

    from analysis.reproduction import Reproduction, Result
    from runner.trial import Trial

NAMED = 8
"""Missing trials that are listed one by one."""
INTRUDERS = "intruders"
BASE = "fira-methods"
"""The study whose trials are the plain form of each submission."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", nargs="?", metavar="TABLE", help="name of a table or figure (default: list them), or `all`")
    parser.add_argument("--workload", default="llama_nano", metavar="W", help="scale to run at (default: llama_nano)")
    parser.add_argument("--before", type=Path, metavar="CHECKPOINT", help="intruders: weights of the start, in safetensors")
    parser.add_argument("--after", type=Path, metavar="CHECKPOINT", help="intruders: tuned weights of the same model")
    parser.add_argument("--no-run", action="store_true", help="run nothing: report on the records that are there")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="tables and figures go here (default: RESULTS/reproduced/SCALE)")
    arguments.add_overrides(parser)
    launch.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    if args.table is None:
        print(listing())
        return 0
    if args.table == INTRUDERS:
        return intruders(args)
    from analysis import reproduce

    wanted = list(reproduce.ALL) if args.table == "all" else [reproduce.named(args.table)]
    code = 0
    for one in wanted:
        planned = trials_of(one, args)
        if not args.no_run:
            code = max(code, launch.trials(planned, args, table=False))
        if args.executor == "slurm" and not args.no_run:
            print(f"when the jobs have ended: {again(one, args)} --no-run")
            continue
        show(one, planned, args)
    return code


def listing() -> str:
    """Every table and figure, with the studies it rests on."""
    from analysis import reproduce

    width = max(len(one.name) for one in reproduce.ALL)
    lines = [f"  {one.name:<{width}}  {one.kind:<6}  {one.what} ({', '.join(one.studies)})" for one in reproduce.ALL]
    lines.append(f"  {INTRUDERS:<{width}}  table   intruder dimensions of two checkpoints (--before and --after; nothing is run)")
    hint = "run one: slimperf reproduce NAME --workload llama_nano    (or `all`; --no-run reports on what is there)"
    return "\n".join([*lines, "", hint])


def intruders(args: argparse.Namespace) -> int:
    """Counts the singular vectors of tuned weights that are nearly orthogonal to all of the start's.

    Raises:
        ValueError: two checkpoints of one model were not given.
    """
    if args.before is None or args.after is None:
        raise ValueError("reproduce intruders: expected --before CHECKPOINT and --after CHECKPOINT, two states of one model in safetensors")
    from analysis import intruders
    from analysis.reproduction import Result

    table = intruders.count(args.before, args.after)
    total = table.groupby(["threshold", "depth"])["intruders"].agg(["sum", "size"]).reset_index()
    _print(total.rename(columns={"sum": "intruders", "size": "matrices"}), "")
    folder = args.out or args.results / "reproduced"
    print(f"written: {', '.join(path.name for path in write(Result(tables={'': table}), folder, INTRUDERS))} in {folder}")
    return 0


def trials_of(one: Reproduction, args: argparse.Namespace) -> list[Trial]:
    """The trials that a reproduction needs on the chosen workload, each once."""
    from runner import study

    found: dict[str, Trial] = {}
    for name in one.studies:
        for trial in study.read(study.locate(name), workload=args.workload, overrides=arguments.overrides(args)):
            found.setdefault(trial.id, trial)
    return list(found.values())


def show(one: Reproduction, planned: list[Trial], args: argparse.Namespace) -> None:
    """Prints what the records give, writes it to files, and names what is missing."""
    print(f"{one.name}: {one.what}; {planned[0].workload_name}\n")
    result, missing = made(one, planned, args)
    if result is not None:
        for name, table in result.tables.items():
            _print(table, name)
        _print(result.claims, "claims")
        folder = args.out or args.results / "reproduced" / scale_name(args)
        written = write(result, folder, one.name)
        print(f"written: {', '.join(path.name for path in written)} in {folder}\n" if written else "nothing to show yet\n")
    if missing:
        names = "".join(f"  {name}\n" for name in missing[:NAMED]) + (
            f"  and {len(missing) - NAMED} more\n" if len(missing) > NAMED else ""
        )
        print(f"missing: {len(missing)} of {len(planned)} trials\n{names}run them: {again(one, args)}\n")


def made(one: Reproduction, planned: list[Trial], args: argparse.Namespace) -> tuple[Result | None, list[str]]:
    """What the records give, None if there is no record yet; and the trials that did not come to their end, in words."""
    from analysis import load, reproduction, tables
    from runner import progress

    names = progress.names(planned)
    folders = sorted({args.results / trial.study for trial in planned})
    present = [folder for folder in folders if folder.is_dir() and any(folder.glob("*.jsonl"))]
    if not present:
        return None, [names[trial.id] for trial in planned]
    trials, points = load.study(present[0] if len(present) == 1 else args.results)
    ended = set(trials.loc[trials["status"].isin(tables.ENDED), "trial"])
    runs = reproduction.gathered(one, plan_of(planned), base_of(args), trials, points)
    missing = [names[trial.id] for trial in planned if trial.id not in ended]
    return (one.make(runs) if len(runs.planned) else None), missing


def plan_of(planned: list[Trial]) -> pd.DataFrame:
    """One row per trial, as `analysis.reproduce` takes it."""
    import pandas as pd

    from runner import catalog, scale

    first = planned[0]
    side = scale.short_side(catalog.workload(first.workload, first.overrides))
    rows = [
        {
            "trial": trial.id,
            "submission": trial.submission_name,
            "seed": trial.seed,
            "share": trial.hyperparameters["rank"] / side if "rank" in trial.hyperparameters else float("nan"),
            "hyperparameters": trial.hyperparameters,
        }
        for trial in planned
    ]
    return pd.DataFrame(rows)


def base_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The plain hyperparameters of each submission on the chosen workload: those of its first trial in `BASE`."""
    from runner import study

    found: dict[str, dict[str, Any]] = {}
    for trial in study.read(study.locate(BASE), workload=args.workload, overrides=arguments.overrides(args)):
        found.setdefault(trial.submission_name, trial.hyperparameters)
    return found


def write(result: Result, folder: Path, name: str) -> list[Path]:
    """Tables as CSV, LaTeX and Markdown, figures as PNG and SVG; the paths."""
    from analysis import figures, render

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, table in {**result.tables, "claims": result.claims}.items():
        if table.empty:
            continue
        stem = f"{name}-{suffix}" if suffix else name
        for ending, text in (("csv", render.csv(table)), ("tex", render.latex(table)), ("md", render.markdown(table))):
            path = folder / f"{stem}.{ending}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    for suffix, figure in result.figures.items():
        written += figures.save(figure, folder / (f"{name}-{suffix}" if suffix else name))
    return written


def scale_name(args: argparse.Namespace) -> str:
    """The workload and what the command line changes of it, as the name of a folder."""
    changes = [
        f"{key}{value:g}" if isinstance(value, int | float) else f"{key}-{value}" for key, value in arguments.overrides(args).items()
    ]
    return "-".join([Path(args.workload.rpartition(":")[2]).stem, *changes]).replace("/", "-")


def again(one: Reproduction, args: argparse.Namespace) -> str:
    """The command that runs what is missing."""
    import shlex

    given = arguments.overrides(args)
    words = ["slimperf", "reproduce", one.name, "--workload", args.workload, "--results", str(args.results)]
    if given:
        words += ["--override", *(f"{key}={value}" for key, value in given.items())]
    return shlex.join(words)


def _print(table: pd.DataFrame, name: str) -> None:
    from analysis import render

    if not table.empty:
        print(f"{name}\n" if name else "", render.text(table), sep="")
