"""`slimperf query DIR`: filter, group and export records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

EPILOG = """An expression compares columns: 'hp.rank >= 64', 'submission in ["fira", "galore"] and status == "reached"',
'"nano" in workload', 'hp.clip == None', 'hp.betas == [0.9, 0.99]'. Several --where must all hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("dir", type=Path, help="results root or study folder")
    parser.add_argument("--where", action="append", default=[], metavar="EXPRESSION", help="keep the rows for which this holds")
    parser.add_argument("--points", metavar="NAME", help="rows are the points of this name, not trials")
    parser.add_argument("--columns", nargs="+", metavar="COLUMN", help="columns to show; `all` for every column")
    parser.add_argument("--group-by", nargs="+", metavar="COLUMN", help="one row per group: how many rows, and the aggregate of columns")
    aggregates = ["mean", "median", "min", "max", "std", "sum", "count"]
    parser.add_argument("--aggregate", choices=aggregates, default="mean", help="of a group's columns (mean)")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write CSV")
    parser.add_argument("--parquet", type=Path, metavar="OUT", help="write Parquet (needs pyarrow)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write a JSON list of rows")


def main(args: argparse.Namespace) -> int:
    import sys

    from analysis import load, query, render

    trials, points = load.study(args.dir)
    for problem in trials.attrs["problems"]:
        print(f"slimperf: {problem}", file=sys.stderr)
    table = query.with_points(trials, points, args.points) if args.points else trials
    if not args.points and (measured := {*(args.columns or ())} & {*map(str, points["name"].cat.categories)} - {*trials.columns}):
        name = min(measured)
        raise ValueError(f"--columns {name}: it is measured along the way; ask for --points {name}, and for its --columns value")
    table = query.where(table, args.where)
    names = list(table.columns) if args.columns == ["all"] else args.columns
    if args.points and names is None:
        names = ["trial", "submission", "workload", "seed", "step", "seconds", "tokens", "value", "param"]
    if args.group_by:
        table = query.grouped(table, args.group_by, args.columns, aggregate=args.aggregate)
    else:
        table = query.columns(table, names)
    written = [_write(table, kind, path) for kind in ("csv", "parquet", "json") if (path := getattr(args, kind))]
    if not written:
        print(render.text(query.whole(table)) if len(table) else "no row is left", end="" if len(table) else "\n")
    return 0


def _write(table: pd.DataFrame, kind: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = table.copy()
    for name in plain.columns:  # tuples and dicts have no place in a flat file
        if plain[name].dtype == object:
            plain[name] = [json.dumps(value) if isinstance(value, tuple | dict) else value for value in plain[name]]
    if kind == "csv":
        plain.to_csv(path, index=False, lineterminator="\n")
    elif kind == "json":
        path.write_text(plain.to_json(orient="records", indent=1) + "\n", encoding="utf-8")
    else:
        try:
            plain.to_parquet(path, index=False)
        except ImportError:
            raise ValueError('--parquet needs pyarrow: pip install "slimperf[fast]", or use --csv') from None
    print(f"{len(table)} rows in {path}")
    return path
