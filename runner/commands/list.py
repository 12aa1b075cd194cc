"""List submissions, workloads or studies."""

from __future__ import annotations

import argparse
import itertools
import re

MOST = 5
"""Submissions of a study that are named; more are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("submissions", "workloads", "studies"), help="what to list")
    parser.add_argument("--workload", metavar="W", help="submissions: also predict optimizer state and total memory on W")


def main(args: argparse.Namespace) -> int:
    from runner import status

    if args.workload and args.what != "submissions":
        raise ValueError(f"--workload is for `slimperf list submissions`; leave it out of `slimperf list {args.what}`")
    tables = {"submissions": lambda: submissions(args.workload), "workloads": workloads, "studies": studies}
    print(status.folded(tables[args.what]()))
    return 0


def submissions(workload: str | None) -> list[list[str]]:
    """Cells: name, class, on a workload the predicted bytes, paper, memory formula: the longest last."""
    from runner import catalog, hyperparameters, memory, status

    table = [
        ["name", "class", *(["state", "total memory"] if workload else []), "paper", "state per m x n matrix, m <= n, in fp32 numbers"]
    ]
    for name in catalog.submission_names():
        cls = catalog.submission_class(name)
        sizes = []
        if workload:
            chosen = catalog.workload(workload)
            layers = hyperparameters.defaults(name, workload, chosen.variant_of)
            try:
                found = memory.predict(hyperparameters.resolve(cls, layers), chosen)
                sizes = [status.megabytes(found["state"]), memory.said(found)]
            except ValueError as error:
                sizes = ["-", str(error)]
            except memory.Unpredictable as error:
                sizes = ["-", f"cannot be predicted: {error}"]
        table.append([name, cls.kind, *sizes, cls.paper or "-", cls.memory or "-"])
    return table


def workloads() -> list[list[str]]:
    """Cells: name, what it is a variant of, batch, budget, target, hardware."""
    from runner import catalog, progress

    table = [["name", "variant of", "batch", "steps", "at most", "target", "hardware"]]
    for name in catalog.workload_names():
        chosen = catalog.registered(name)
        table.append(
            [
                *(name, chosen.variant_of or "-", f"{chosen.batch.sequences} x {chosen.batch.length}", str(chosen.budget.steps)),
                *(progress.duration(chosen.budget.seconds), target_of(chosen), chosen.hardware),
            ]
        )
    return table


def target_of(workload: object) -> str:
    """The target in words."""
    target = getattr(workload, "target", None)
    if target is None:
        return "-"
    sign = "<=" if target.mode == "min" else ">="
    return f"{target.metric} {sign} {target.value:g}{' (provisional)' if target.provisional else ''}"


def studies() -> list[list[str]]:
    """Cells: name, workloads, submissions, first sentence of the comment at the top."""
    from runner import documents, study

    table = [["name", "workloads", "submissions", "about"]]
    for name in study.names():
        path = study.SHIPPED / f"{name}.yaml"
        document = documents.read(path)
        listed = document.get("workloads", [document.get("workload")])
        named = [item if isinstance(item, str) else str(item["name"]) for item in listed]
        comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        about = re.split(r"(?<=[.:])\s", " ".join(line.removeprefix("#").strip() for line in comment), maxsplit=1)[0].rstrip(".:")
        submissions = list(dict.fromkeys(str(entry["submission"]) for entry in document["trials"]))
        listed = ", ".join(submissions) if len(submissions) <= MOST else f"{len(submissions)} submissions"
        table.append([name, ", ".join(named), listed, about])
    return table
