"""Describe one submission, workload or study: what it is, its settings with their types, defaults and sources."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from submissions.base import Submission


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a submission (name or file), a workload, or a study")


def main(args: argparse.Namespace) -> int:
    from runner import catalog, fields, study

    if args.name in study.names() or args.name.endswith((".yaml", ".yml")):
        print(study.locate(args.name).read_text(encoding="utf-8").rstrip())
    elif args.name in catalog.submission_names() or args.name.endswith(".py"):
        print(submission(study.placed(args.name, Path.cwd())))
    elif args.name in catalog.workload_names() or ".py:" in args.name:
        print(workload(study.placed(args.name, Path.cwd())))
    else:
        known = [*catalog.submission_names(), *catalog.workload_names(), *study.names()]
        raise ValueError(f"unknown name {args.name!r}{fields.nearest(args.name, known)} (see `slimperf list`)")
    return 0


def submission(name: str) -> str:
    """A submission's documentation, and its hyperparameters as a table."""
    from runner import catalog, fields, hyperparameters, status

    cls = catalog.submission_class(name)
    module = inspect.getmodule(cls)
    head = [inspect.getdoc(module) or inspect.getdoc(cls) or "", "", f"class: {cls.kind}", f"paper: {cls.paper or '-'}"]
    head.append(f"state per m x n matrix, m <= n, in fp32 numbers: {cls.memory or '-'}")
    meanings = _meanings(cls)
    values = hyperparameters.values(hyperparameters.resolve(cls, {}))
    table = [["hyperparameter", "default", "type", "meaning"]]
    for field, annotation in fields.types_of(cls).items():
        table.append([field, _plain(values[field]), fields.describe(annotation), meanings.get(field, "")])
    found = ["", "defaults by workload:"] if hyperparameters.sources(name) else []
    for workload, entry in hyperparameters.sources(name).items():
        told = ", ".join(f"{key} = {_plain(value)}" for key, value in entry.items() if key != "source")
        source = f"  ({entry['source']})" if "source" in entry else ""
        found.append(f"  {workload}: {told}{source}")
    return "\n".join([*head, "", status.folded(table), *found])


def workload(name: str) -> str:
    """A workload's settings, one per line; nested ones as `--override` takes them."""
    from runner import catalog, status

    chosen = catalog.registered(name)
    table = [["setting", "value"], *([key, _plain(value)] for key, value in _flat(chosen.spec()) if key != "name")]
    return "\n".join([f"{chosen.name}: {inspect.getdoc(type(chosen))}", "", status.aligned(table)])


def _flat(spec: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in spec.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found


def _meanings(cls: type[Submission]) -> dict[str, str]:
    """The docstrings under the fields of a class and its bases, in one line each."""
    import ast

    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner))).body[0]
        except (OSError, TypeError):  # no source text, as in a frozen program
            continue
        assert isinstance(body, ast.ClassDef), owner
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as meaning)):
                    found[name] = " ".join(meaning.split())
    return found


def _plain(value: Any) -> str:
    from runner import fields

    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    plain = fields.plain(value)
    return f"[{', '.join(map(_plain, plain))}]" if isinstance(plain, list) else f"{plain:g}" if isinstance(plain, float) else str(plain)
