"""Prepare token data, list what is prepared, check it.

  slimperf data prepare c4 --tokenizer t5-base --layout padded     what the llama_60m ... llama_7b workloads read
  slimperf data prepare my_texts/ --name mine                      .txt, .jsonl, .json.gz files
  slimperf run adam --workload llama_nano --data mine              ... and training on them
  slimperf data prepare commonsense --source LLM-Adapters/         what the commonsense workloads read
  slimperf data prepare commonsense-base                           the small model that their CPU members start from
  slimperf data list
  slimperf data verify mine

Data go to $SLIMPERF_DATA, or ./data. A preparation that was stopped goes on where it was when the command is given again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.preparation import Preparation, Source
    from workloads.shards import Layout

C4_DOCUMENTS = 10_240_000
"""20,000 steps of 512: the published 130M recipe without reading a document twice."""
PADDED_LENGTH = 512
"""Twice the published length, so that the longer-sequence variants find what they need."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="turn text into token shards")
    prepare.add_argument(
        "source", metavar="SOURCE", help="a file or folder of text, c4 (streamed from the hub), stdlib, commonsense, or commonsense-base"
    )
    prepare.add_argument(
        "--source", dest="tasks", metavar="DIR", help="commonsense: folder in the layout of LLM-Adapters, or a data set of the hub"
    )
    prepare.add_argument("--name", help="what workloads call the data (default: the source's name)")
    prepare.add_argument("--tokenizer", metavar="T", help="bytes, a tokenizer.json, or an id of the hub (default: bytes; c4: t5-base)")
    prepare.add_argument("--layout", choices=("packed", "padded"), help="default: packed; c4: padded")
    prepare.add_argument("--length", type=int, metavar="N", help=f"tokens kept of each document (default: all; padded: {PADDED_LENGTH})")
    prepare.add_argument("--documents", type=int, metavar="N", help=f"stop after so many (default: all; c4: {C4_DOCUMENTS:,})")
    prepare.add_argument(
        "--validation-source", metavar="PATH", help="text for validation (default: files named validation, or each 20th part)"
    )
    prepare.add_argument("--out", type=Path, metavar="DIR", help="folder to write, instead of $SLIMPERF_DATA/NAME or data/NAME")
    prepare.add_argument("--quiet", action="store_true", help="no progress")
    actions.add_parser("list", help="what is prepared")
    verify = actions.add_parser("verify", help="compare every shard with its hash")
    verify.add_argument("name", metavar="NAME", help="name or folder of prepared data")


def main(args: argparse.Namespace) -> int:
    return {"prepare": prepare_data, "list": list_data, "verify": verify_data}[args.action](args)


def prepare_data(args: argparse.Namespace) -> int:
    """Prepares, shows how far it is, and says what came out."""
    if args.source == "commonsense":
        return prepare_commonsense(args)
    if args.source == "commonsense-base":
        return prepare_base(args)
    if args.tasks is not None:
        raise ValueError(f"--source {args.tasks}: expected with `prepare commonsense` only")
    from workloads.preparation import prepare
    from workloads.prepared import data_root
    from workloads.shards import META, read_meta

    job = _job(args)
    out = args.out or data_root() / job.name
    if (out / META).exists():
        meta = read_meta(out)
        if meta.tokenizer != job.tokenizer.identity() or (meta.layout, meta.length) != (job.layout, job.length):
            was = f"tokenizer {meta.tokenizer['name']}, layout {meta.layout}, length {meta.length}"
            raise ValueError(f"{out} holds data with {was}: delete it, or give these another --name")
        print(f"{out} is there already, made from {meta.documents:,} documents; delete it to prepare it anew")
        return 0
    begun = last = time.monotonic()
    terminal = sys.stderr.isatty()
    for progress in prepare(job, out):
        now = time.monotonic()
        if not args.quiet and now - last >= (0.2 if terminal else 10):
            last = now
            text = f"{job.name}: {progress.documents:,} documents, {progress.tokens:,} tokens, {now - begun:.0f} s"
            print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
    meta = read_meta(out)
    if terminal and not args.quiet:
        print(file=sys.stderr)
    print(
        f"{out}: {meta.tokens('train'):,} training and {meta.tokens('validation'):,} validation tokens from {meta.documents:,} documents, "
        f"sha256 {meta.sha256[:12]}"
    )
    return 0


def prepare_commonsense(args: argparse.Namespace) -> int:
    """Checks and keeps the task files, and says what is missing."""
    from workloads import commonsense_files
    from workloads.prepared import data_root

    if args.tasks is None:
        raise ValueError("prepare commonsense: expected --source DIR, a folder in the layout of LLM-Adapters (boolq/test.json, ...)")
    source = Path(args.tasks) if Path(args.tasks).is_dir() else commonsense_files.fetch(args.tasks)
    out = args.out or data_root() / (args.name or "commonsense")
    index = commonsense_files.prepare(source, out)
    print(f"{out}: sha256 {index.sha256[:12]}")
    print(f"training: {sum(file.examples for file in index.train):,} examples of {', '.join(file.path for file in index.train)}")
    print(f"tests: {', '.join(f'{task} {file.examples:,}' for task, file in index.test.items())}")
    if index.missing:
        print(
            f"missing: {', '.join(index.missing)}; averages leave them out, so they do not compare with published averages over eight tasks"
        )
    return 0


def prepare_base(args: argparse.Namespace) -> int:
    """Trains the small models that are not there yet."""
    from runner import bases
    from workloads.commonsense_bases import RECIPES, made_folder

    for name, recipe in RECIPES.items():
        if not args.quiet and not made_folder(name).exists():
            print(f"training {name} on {recipe.workload} with {recipe.submission}, a few minutes", file=sys.stderr, flush=True)
        print(f"made:{name} is in {bases.make(name)}")
    return 0


def list_data(args: argparse.Namespace) -> int:
    """One line per folder of prepared data."""
    from workloads import commonsense_files
    from workloads.prepared import data_root, prepared_folders
    from workloads.shards import read_meta

    rows = [("name", "tokenizer", "layout", "training tokens", "validation tokens", "sha256", "folder")]
    for folder in prepared_folders():
        meta = read_meta(folder)
        counts = [f"{meta.tokens(split):,}" for split in ("train", "validation")]
        rows.append((meta.name, meta.tokenizer["name"], meta.layout, counts[0], counts[1], meta.sha256[:12], str(folder)))
    for path in sorted(data_root().glob(f"*/{commonsense_files.INDEX}")):
        index = commonsense_files.read_index(path.parent)
        train, test = (f"{sum(file.examples for file in files):,} examples" for files in (index.train, index.test.values()))
        rows.append((path.parent.name, "any", "questions", train, test, index.sha256[:12], str(path.parent)))
    if len(rows) == 1:
        print(f"nothing is prepared in {data_root()}; stdlib is made at first use, other text by: slimperf data prepare SOURCE")
        return 0
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def verify_data(args: argparse.Namespace) -> int:
    """Hashes every shard, or task file."""
    from workloads import commonsense_files
    from workloads.prepared import data_root, find_data
    from workloads.shards import read_meta, verify

    for folder in (Path(args.name), data_root() / args.name):
        if (folder / commonsense_files.INDEX).exists():
            index = commonsense_files.read_index(folder)
            commonsense_files.verify(folder, index)
            print(f"{folder}: {len(index.train) + len(index.test)} task files are as they were prepared, sha256 {index.sha256[:12]}")
            return 0
    folder = find_data(args.name)
    meta = read_meta(folder)
    verify(folder, meta, full=True)
    print(f"{folder}: {len(meta.shards)} shards ({meta.bytes:,} bytes) are as they were prepared, sha256 {meta.sha256[:12]}")
    return 0


def _job(args: argparse.Namespace) -> Preparation:
    from workloads.preparation import Preparation
    from workloads.text import local_text
    from workloads.tokenizers import load_tokenizer

    for flag in ("length", "documents"):
        if (value := getattr(args, flag)) is not None and value < 2:
            raise ValueError(f"--{flag} {value}: expected 2 or more")
    is_c4 = args.source == "c4"
    layout: Layout = args.layout or ("padded" if is_c4 else "packed")
    train, validation = _sources(args.source)
    if args.validation_source:
        validation = local_text(Path(args.validation_source))
    name = args.name or (args.out.name if args.out else Path(args.source).resolve().name.split(".")[0])
    if not name or name.startswith(".") or "/" in name:
        raise ValueError(f"--name {name!r}: expected a plain name, such as wiki")
    return Preparation(
        name=name,
        source=train,
        validation=validation,
        tokenizer=load_tokenizer(args.tokenizer or ("t5-base" if is_c4 else "bytes")),
        layout=layout,
        length=args.length or (PADDED_LENGTH if layout == "padded" else None),
        limit=args.documents or (C4_DOCUMENTS if is_c4 else None),
    )


def _sources(source: str) -> tuple[Source, Source | None]:
    """Text for training, and for validation if the source brings its own."""
    from workloads.corpus import StandardLibrary
    from workloads.text import HubText, local_text

    if source == "stdlib":
        return StandardLibrary(), None
    if source == "c4":
        return HubText("train"), HubText("validation")
    everything, held_out = local_text(Path(source)), local_text(Path(source), held_out=True)
    if not held_out.files or held_out.files == everything.files:
        return everything, None
    return local_text(Path(source), held_out=False), held_out
