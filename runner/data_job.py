"""What `slimperf data prepare` is asked for: its arguments, checked, as a preparation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.preparation import Preparation, Source
    from workloads.shards import Layout

C4_DOCUMENTS = 10_240_000
"""20,000 steps of 512: the published 130M recipe without reading a document twice."""
PADDED_LENGTH = 512
"""Twice the published length, so that the longer-sequence variants find what they need."""
FLAGS = {
    "tasks": "--source",
    "name": "--name",
    "out": "--out",
    "tokenizer": "--tokenizer",
    "eos": "--eos",
    "field": "--field",
    "layout": "--layout",
    "length": "--length",
    "documents": "--documents",
    "validation_source": "--validation-source",
}
"""Arguments that change what is prepared, as they are typed."""
TEXT = set(FLAGS) - {"tasks"}
TAKEN = {"commonsense": {"tasks", "name", "out"}, "commonsense-base": set[str](), "c4": TEXT - {"field"}, "stdlib": TEXT - {"field"}}
"""Those that apply to a source that is not a user's own text."""


def refuse_idle(args: argparse.Namespace) -> None:
    """Stops if something was given that this source has no use for.

    Raises:
        ValueError: naming it.
    """
    taken = TAKEN.get(args.source, TEXT)
    for key, flag in FLAGS.items():
        if getattr(args, key) is not None and key not in taken:
            takes = ", ".join(FLAGS[other] for other in FLAGS if other in taken) or "none of these"
            raise ValueError(f"{flag} {getattr(args, key)} does not apply to `prepare {args.source}`, which takes {takes}")


def name(args: argparse.Namespace) -> str:
    """What workloads will call the data.

    Raises:
        ValueError: no plain name, or one that is taken for good.
    """
    from workloads import corpus

    chosen: str = args.name or (args.out.name if args.out else Path(args.source).resolve().name.split(".")[0])
    if not chosen or chosen.startswith(".") or "/" in chosen:
        raise ValueError(f"--name {chosen!r}: expected a plain name, such as wiki")
    if chosen == corpus.NAME:
        raise ValueError(f"--name {chosen}: the embedded text is called so, and is made at first use; choose another --name")
    return chosen


def of(args: argparse.Namespace) -> Preparation:
    """The preparation of text that the arguments describe.

    Raises:
        ValueError: there is no such text or tokenizer, or a number or the name is wrong.
    """
    from workloads.preparation import Preparation
    from workloads.tokenizers import load_tokenizer

    for flag in ("length", "documents"):
        if (value := getattr(args, flag)) is not None and value < 2:
            raise ValueError(f"--{flag} {value}: expected 2 or more")
    is_c4 = args.source == "c4"
    layout: Layout = args.layout or ("padded" if is_c4 else "packed")
    train, validation = _sources(args)
    return Preparation(
        name=name(args),
        source=train,
        validation=validation,
        tokenizer=load_tokenizer(args.tokenizer or ("t5-base" if is_c4 else "bytes"), eos=args.eos),
        layout=layout,
        length=args.length or (PADDED_LENGTH if layout == "padded" else None),
        limit=args.documents or (C4_DOCUMENTS if is_c4 else None),
    )


def told(job: Preparation) -> list[str]:
    """Which of the user's files are read for what; nothing of text that is not in files of the user's."""
    from workloads import text

    if isinstance(job.source, text.LocalText) and isinstance(job.validation, text.LocalText | None):
        return text.told(job.source, job.validation)
    return []


def _sources(args: argparse.Namespace) -> tuple[Source, Source | None]:
    """Text for training, and for validation if it was given or the source brings its own."""
    from workloads.corpus import StandardLibrary
    from workloads.text import HubText, local_text

    field = args.field or "text"
    validation = local_text(Path(args.validation_source), field=field) if args.validation_source else None
    if args.source == "stdlib":
        return StandardLibrary(), validation
    if args.source == "c4":
        return HubText("train"), validation or HubText("validation")
    return local_text(Path(args.source), field=field).split(validation)
