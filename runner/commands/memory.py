"""Predict memory per submission, by part, from shapes alone: nothing is trained or allocated.

Weights, gradients and optimizer state are exact; activations are what one micro-batch keeps for its backward pass. The total is
the fullest moment of a step, followed allocation by allocation with its refresh; `(sum)` marks one that adds up the parts because the
submission's step reads values, which shapes do not have. A dash stands for one that cannot even be built without values, and a note
says why. Compiling is not predicted. Papers' estimates of weights plus state stand beside ours where a paper has them for the same
workload, submission and rank.

  slimperf memory --workload llama_60m --submissions adam galore fira --set rank=64
  slimperf memory --workload llama_60m llama_130m llama_350m llama_1b llama_7b --csv memory.csv     sizes side by side
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner import arguments

Titled = tuple[str, list[list[Any]]]
"""A heading, and cells of which the numbers are bytes."""
PARTS = ("weights", "gradients", "state", "activations", "total")
FITS = {True: "yes", False: "no", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", required=True, nargs="+", metavar="W", help="names (`slimperf list workloads`), or FILE.py:NAME")
    parser.add_argument(
        "--submissions", nargs="+", metavar="S", help="names or paths of Python files (default: all that come with SlimPerf)"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyperparameters of every submission that has them"
    )
    parser.add_argument("--card", metavar="SIZE", help="say what fits on a card of this size, such as 24GB")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write the table as CSV, in bytes")
    arguments.add_adapter(parser)
    arguments.add_overrides(parser)


def main(args: argparse.Namespace) -> int:
    from runner import cards

    card = cards.parse(args.card) if args.card else None
    chosen, adapter = arguments.assignments("--set", args.set), arguments.adapter(args)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for workload in dict.fromkeys(args.workload):
        found, left_out = table(workload, arguments.overrides(args), args.submissions, chosen, adapter)
        rows += found
        notes += left_out
    if card is not None:
        for row in rows:
            row["fits"] = None if math.isnan(row["bytes_total"]) else cards.fits(row["bytes_total"], card)
    if args.csv:
        write_csv(rows, args.csv)
    several = len({row["workload"] for row in rows}) > 1
    for title, cells in _side_by_side(rows, args.card) if several else _by_part(rows, args.card):
        print(f"{title}\n\n{_aligned(cells)}\n")
    if not adapter and (theirs := estimates(rows)):
        print(f"weights and optimizer state, ours beside the papers' estimates\n\n{theirs}")
    print("".join(f"{note}\n" for note in notes), end="")
    return 0


def _by_part(rows: list[dict[str, Any]], card: str | None) -> Iterator[Titled]:
    headings = ["submission", *PARTS, *([f"fits {card}"] if card else [])]
    sizes = [[*(row[f"bytes_{part}"] for part in PARTS[:-1]), row["total"]] for row in rows]
    fits = [[FITS[row["fits"]]] if card else [] for row in rows]
    lines = [[row["submission"], *size, *fit] for row, size, fit in zip(rows, sizes, fits, strict=True)]
    yield f"{rows[0]['workload']}: predicted memory", [headings, *lines]


def _side_by_side(rows: list[dict[str, Any]], card: str | None) -> Iterator[Titled]:
    """A table per sum of parts, with a column per workload; a dash where a submission does not fit the model."""
    names, workloads = (list(dict.fromkeys(row[key] for row in rows)) for key in ("submission", "workload"))
    found = {(row["submission"], row["workload"]): row for row in rows}

    def lines(value: Callable[[dict[str, Any]], Any]) -> list[list[Any]]:
        cells = [[value(found[name, workload]) if (name, workload) in found else "-" for workload in workloads] for name in names]
        return [["submission", *workloads], *([name, *line] for name, line in zip(names, cells, strict=True))]

    yield "predicted memory: weights and optimizer state", lines(lambda row: row["bytes_weights"] + row["bytes_state"])
    yield "predicted memory: total", lines(lambda row: row["total"])
    if card:
        yield f"fits {card}", lines(lambda row: FITS[row["fits"]])


def _aligned(cells: list[list[Any]]) -> str:
    from runner import status

    return status.aligned([[cell if isinstance(cell, str) else status.megabytes(cell) for cell in line] for line in cells])


def estimates(rows: list[dict[str, Any]]) -> str:
    """The papers' estimates as text beside ours, with the relative difference; empty where no paper has one."""
    import pandas as pd

    from analysis import comparison, render

    table = comparison.estimates(pd.DataFrame(rows))
    return render.text(table) if len(table) else ""


def table(
    workload: str,
    overrides: dict[str, Any],
    submissions: list[str] | None,
    chosen: dict[str, Any],
    adapter: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row per submission: workload, submission, `bytes_<part>`, whether the total `is_peak`, rank; and sentences about what is missing.

    Bytes that cannot be predicted are NaN.

    Raises:
        ValueError: an unknown name, a hyperparameter that no submission has, or one that does not fit a named submission's model.
    """
    from runner import catalog, composition, fields, hyperparameters, memory

    place = catalog.workload(workload, overrides)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    known: set[str] = set()
    beside = composition.resolved(adapter or {}, workload, place.variant_of)
    for name in submissions or catalog.submission_names():
        cls = catalog.submission_class(name)
        own = fields.types_of(cls)
        known |= own.keys()
        values = {
            **hyperparameters.defaults(name, workload, place.variant_of),
            **{key: value for key, value in chosen.items() if key in own},
        }
        try:
            own_rule = hyperparameters.resolve(cls, values)
            found: Mapping[str, float] = memory.predict(composition.combined(own_rule, beside) if beside else own_rule, place)
        except memory.Unpredictable as error:
            notes.append(f"{name} on {place.name} cannot be predicted: {error}")
            found = dict.fromkeys(PARTS, float("nan"))
        except ValueError as error:
            if submissions:
                raise ValueError(f"{name} on {place.name}: {error}") from None
            notes.append(f"left out: {name} on {place.name}: {error}")
            continue
        sizes = {f"bytes_{part}": found[part] for part in PARTS}
        row = {"workload": place.name, "submission": Path(name).stem, **sizes, "is_peak": "peak" in found, "total": memory.said(found)}
        rows.append({**row, "hp.rank": getattr(own_rule, "rank", None)})
    if unknown := chosen.keys() - known:
        raise ValueError(f"--set {min(unknown)}: none of these submissions has it{fields.nearest(min(unknown), known)}")
    if not rows:
        raise ValueError("no submission fits: " + "; ".join(notes))
    return rows, notes


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = [name for name in rows[0] if name not in ("hp.rank", "total")]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
