"""Arguments of the command line that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from runner import documents


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Arguments that change a workload; each makes it another one, named after the change."""
    group = parser.add_argument_group("changes of the workload (each makes it another workload, named after the change)")
    group.add_argument("--data", metavar="D", help="name or path of prepared data (`slimperf data`)")
    group.add_argument("--steps", type=int, metavar="N", help="step budget")
    group.add_argument("--seconds", type=float, metavar="S", help="time budget, on-clock seconds")
    group.add_argument("--target", type=float, metavar="V", help="value of the target")
    group.add_argument(
        "--override", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="any setting, such as batch.sequences=64"
    )


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """The adapter that submissions optimise."""
    parser.add_argument(
        "--adapter",
        nargs="+",
        default=[],
        metavar=("NAME", "NAME=VALUE"),
        help="train an adapter by the submission, such as lora rank=32 alpha=64; there are lora, peft, bottleneck, prefix, sora, sltrain,"
        " sst, lost, low_rank and switchlora",
    )


def adapter(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_adapter` collected, as a study has it; empty for none."""
    name, *texts = args.adapter or [None]
    return {"submission": name, **assignments("--adapter", texts)} if name else {}


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_overrides` collected, for `catalog.workload`."""
    short = {name: getattr(args, name) for name in ("data", "steps", "seconds", "target") if getattr(args, name) is not None}
    return {**short, **assignments("--override", args.override)}


def assignments(flag: str, texts: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as YAML, except that 5e-4 is a number here.

    Raises:
        ValueError: no `=`, or a name stands twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{flag} {text}: expected NAME=VALUE, such as {flag} rank=64")
        if name in found:
            raise ValueError(f"{flag} {text}: {name} was given before")
        found[name] = documents.value(value)
    return found
