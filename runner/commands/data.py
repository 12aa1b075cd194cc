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
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runner import data_job
from runner.data_job import C4_DOCUMENTS, PADDED_LENGTH

if TYPE_CHECKING:
    from workloads.commonsense_files import Index
    from workloads.preparation import Preparation


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
    prepare.add_argument("--eos", metavar="TOKEN", help="ends a document (default: the one that the tokenizer's configuration names)")
    prepare.add_argument(
        "--field", metavar="NAME", help="field of a line of JSON that holds the text, OUTER.INNER if it is in another (default: text)"
    )
    prepare.add_argument("--layout", choices=("packed", "padded"), help="default: packed; c4: padded")
    prepare.add_argument("--length", type=int, metavar="N", help=f"tokens kept of each document (default: all; padded: {PADDED_LENGTH})")
    prepare.add_argument("--documents", type=int, metavar="N", help=f"stop after so many (default: all; c4: {C4_DOCUMENTS:,})")
    prepare.add_argument(
        "--validation-source",
        metavar="PATH",
        help="text for validation (default: files or folders named validation, valid, val or dev, or each 20th part)",
    )
    prepare.add_argument("--out", type=Path, metavar="DIR", help="folder to write, instead of $SLIMPERF_DATA/NAME or data/NAME")
    prepare.add_argument("--quiet", action="store_true", help="no progress")
    actions.add_parser("list", help="what is prepared")
    verify = actions.add_parser("verify", help="compare every shard with its hash")
    verify.add_argument("name", metavar="NAME", help="name or folder of prepared data")


def main(args: argparse.Namespace) -> int:
    return {"prepare": prepare_data, "list": list_data, "verify": verify_data}[args.action](args)


def prepare_data(args: argparse.Namespace) -> int:
    """Prepares, and says what came out."""
    data_job.refuse_idle(args)
    if args.source == "commonsense":
        return prepare_commonsense(args)
    if args.source == "commonsense-base":
        return prepare_base(args)
    from workloads.prepared import data_root
    from workloads.shards import META, read_meta

    job = data_job.of(args)
    out = args.out or data_root() / job.name
    there = (out / META).exists()
    for line in data_job.told(job):
        print(line)
    try:
        _show(job, out, quiet=args.quiet)
    except KeyboardInterrupt:
        print(f"slimperf: stopped; the same command goes on behind the last whole shard in {out}.partial", file=sys.stderr)
        return 130
    meta = read_meta(out)
    if there:
        print(f"{out} is there already, made from {meta.documents:,} documents; remove it to prepare it anew")
        return 0
    print(
        f"{out}: {meta.tokens('train'):,} training and {meta.tokens('validation'):,} validation tokens from {meta.documents:,} documents, "
        f"sha256 {meta.sha256[:12]}"
    )
    return 0


def _show(job: Preparation, out: Path, *, quiet: bool) -> None:
    """Prepares, and shows how far it is."""
    from workloads.preparation import prepare

    begun = last = time.monotonic()
    terminal = sys.stderr.isatty()
    try:
        for progress in prepare(job, out):
            now = time.monotonic()
            if not quiet and now - last >= (0.2 if terminal else 10):
                last = now
                text = f"{job.name}: {progress.documents:,} documents, {progress.tokens:,} tokens, {now - begun:.0f} s"
                print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
    finally:
        if terminal and last > begun:
            print(file=sys.stderr)


def prepare_commonsense(args: argparse.Namespace) -> int:
    """Checks and keeps the task files, and says what is missing."""
    from workloads import commonsense_files
    from workloads.prepared import data_root

    if args.tasks is None:
        raise ValueError("prepare commonsense: expected --source DIR, a folder in the layout of LLM-Adapters (boolq/test.json, ...)")
    out = args.out or data_root() / data_job.name(args)
    source = Path(args.tasks) if Path(args.tasks).is_dir() else commonsense_files.fetch(args.tasks)
    index = _kept_tasks(source, out)
    print(f"{out}: sha256 {index.sha256[:12]}")
    print(f"training: {sum(file.examples for file in index.train):,} examples of {', '.join(file.path for file in index.train)}")
    print(f"tests: {', '.join(f'{task} {file.examples:,}' for task, file in index.test.items())}")
    if index.missing:
        print(
            f"missing: {', '.join(index.missing)}; averages leave them out, so they do not compare with published averages over eight tasks"
        )
    return 0


def _kept_tasks(source: Path, out: Path) -> Index:
    """The task files in `out`, put there if nothing was.

    Raises:
        ValueError: `out` holds something else.
    """
    from workloads import commonsense_files
    from workloads.preparation import check_free

    there = (out / commonsense_files.INDEX).exists()
    if not there:
        check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        index = commonsense_files.prepare(source, Path(beside) / out.name)
        if not there:
            (Path(beside) / out.name).rename(out)
            return index
    kept = commonsense_files.read_index(out)
    commonsense_files.verify(out, kept)
    if kept.sha256 != index.sha256:
        raise ValueError(
            f"{out} holds other task files (sha256 {kept.sha256[:12]}) than {source} ({index.sha256[:12]}): "
            "choose another --name, or remove the folder to prepare it anew"
        )
    return kept


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
    """One line per folder of prepared data, damaged ones among them."""
    from runner import status
    from workloads import commonsense_files
    from workloads.prepared import data_root, prepared_folders

    rows = [["name", "tokenizer", "layout", "training tokens", "validation tokens", "sha256", "folder"]]
    damaged = []
    for folder in (*prepared_folders(), *sorted(path.parent for path in data_root().glob(f"*/{commonsense_files.INDEX}"))):
        try:
            cells = _questions(folder) if (folder / commonsense_files.INDEX).exists() else _tokens(folder)
        except ValueError as error:
            cells = [folder.name, "damaged", "-", "-", "-", "-"]
            damaged.append(str(error))
        rows.append([*cells, str(folder)])
    if len(rows) == 1:
        print(f"nothing is prepared in {data_root()}; stdlib is made at first use, other text by: slimperf data prepare SOURCE")
        return 0
    print("\n".join([status.aligned(rows), *damaged]))
    return 0


def _tokens(folder: Path) -> list[str]:
    """What `list` says of token data."""
    from workloads.shards import read_meta

    meta = read_meta(folder)
    return [meta.name, meta.tokenizer["name"], meta.layout, f"{meta.tokens('train'):,}", f"{meta.tokens('validation'):,}", meta.sha256[:12]]


def _questions(folder: Path) -> list[str]:
    """What `list` says of task files."""
    from workloads import commonsense_files

    index = commonsense_files.read_index(folder)
    train, test = (f"{sum(file.examples for file in files):,} examples" for files in (index.train, index.test.values()))
    return [folder.name, "any", "questions", train, test, index.sha256[:12]]


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
