"""The data path: how fast prepared tokens are read by step, and how fast text becomes tokens.

    python tests/benchmarks/bench_data.py [--megabytes N] [--bpe-megabytes N] [--consumed TOKENS_PER_SECOND] [--write]

Reading is what a trial does: the batch of a step, 512 sequences of 256 tokens in the seed's order, from files in the page cache to tensors,
on one core, packed and padded. It is compared with what llama_60m takes in on a large GPU (`--consumed` gives a measured number). Preparing
is the command `slimperf data prepare`, start-up included, on one core and on all. `--write` keeps results/performance/data.csv; the exit
code is 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import flops
import torch
from measured import Measured, keep, missed, of

from runner import catalog
from workloads.base import Batch
from workloads.corpus import StandardLibrary
from workloads.prepared import open_tokens
from workloads.pretraining import PretrainingWorkload

BATCH = Batch(sequences=512, length=256)
GOAL = 20.0
"""Reading over consumption: far enough that a core shared with the training loop never makes the device wait."""
PEAK, UTILISATION = 989e12, 0.4
"""Assumed of the GPU that consumes: dense bf16 operations per second (an H200's data sheet), and the part of them that training uses.
llama_60m is too small to use so much of it, so the comparison errs on the strict side."""
BPE = "bpe.json"
PARAGRAPH = 2_000
"""Characters of a document, about those of a web page in C4."""


def text(file: Path, size: int) -> int:
    """Writes documents of the standard library's text, over and over, until there are `size` bytes of text; returns how many."""
    whole = [document for document, _ in StandardLibrary().documents((0, 0))]
    pieces = [document[start : start + PARAGRAPH] for document in whole for start in range(0, len(document), PARAGRAPH)]
    written = 0
    with file.open("w", encoding="utf-8") as stream:
        for piece in itertools.cycle(piece for piece in pieces if piece.strip()):
            if written >= size:
                return written
            stream.write(json.dumps({"text": piece}) + "\n")
            written += len(piece.encode())
    raise AssertionError("a cycle does not end")


def train_bpe(corpus: Path, out: Path) -> None:
    """A tokenizer of 8192 byte pairs from the first megabyte of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = corpus.read_text(encoding="utf-8")[:1_000_000].splitlines()[:-1]
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    tokenizer.save(str(out))


def prepare(corpus: Path, tokenizer: str, out: Path, *, layout: str = "packed", cores: Sequence[int]) -> float:
    """Seconds of the command on these cores; what `out` held is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "runner.cli", "data", "prepare", str(corpus), "--tokenizer", tokenizer, "--layout", layout]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--out", str(out), "--quiet"],
        check=True,
        capture_output=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "true"},
        preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
    )
    return time.perf_counter() - began


def preparing(folder: Path, sizes: dict[str, int], rounds: int) -> Iterator[Measured]:
    """Megabytes of text per second, with bytes and with byte pairs; leaves the text and the last round's tokens."""
    available = sorted(os.sched_getaffinity(0))
    counts = sorted({1, len(available)})
    for name, size in sizes.items():
        corpus, tokenizer = folder / f"{name}.jsonl", name
        megabytes = text(corpus, size * 10**6) / 1e6
        if name == "bpe":
            tokenizer = str(folder / BPE)
            train_bpe(corpus, folder / BPE)
        rates: dict[int, list[float]] = {count: [] for count in counts}
        for number in range(rounds):
            for count in counts if number % 2 else counts[::-1]:
                seconds = prepare(corpus, tokenizer, folder / f"{name}-packed", cores=available[:count])
                rates[count].append(megabytes / seconds)
        for count in counts:
            yield of(f"data prepare, {name}, {count} of {len(available)} cores", rates[count], "MB/s", note=f"{megabytes:.0f} MB of text")


def reading(folder: Path, consumed: float, told: str, rounds: int, seconds: float) -> Iterator[Measured]:
    """Tokens per second (of padded data positions, as the model takes them), and that over what is consumed."""
    prepare(folder / "bpe.jsonl", str(folder / BPE), folder / "bpe-padded", layout="padded", cores=sorted(os.sched_getaffinity(0)))
    for layout in ("packed", "padded"):
        data = open_tokens(str(folder / f"bpe-{layout}"), length=BATCH.length)
        rates = []
        step = 0
        for _ in range(rounds + 1):  # the first brings the files into the page cache
            began, first = time.perf_counter(), step
            while time.perf_counter() - began < seconds:
                step += 1
                for _batch in data.micro_batches(0, step, BATCH, "cpu"):
                    data.target_tokens(0, step, BATCH)
            rates.append((step - first) * BATCH.tokens / (time.perf_counter() - began))
        note = f"{BATCH.sequences}x{BATCH.length} a step, {data.identity()['sequences']:,} sequences"
        yield of(f"reading, {layout}, 1 core", rates[1:], "tokens/s", note=note)
        yield of(f"reading, {layout}, over consumption", [rate / consumed for rate in rates[1:]], "x", GOAL, told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="of text, prepared as bytes")
    parser.add_argument("--bpe-megabytes", type=int, default=8, help="of text, prepared with a tokenizer of Hugging Face's library")
    parser.add_argument("--consumed", type=float, help="tokens per second that training takes in; left out, computed as the script says")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round of reading")
    parser.add_argument("--write", action="store_true", help="keep the rows in results/performance")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = catalog.workload("llama_60m")
    assert isinstance(workload, PretrainingWorkload)
    consumed = options.consumed or PEAK * UTILISATION / flops.per_token(workload)
    origin = "measured" if options.consumed else f"computed: {UTILISATION:.0%} of {PEAK / 1e12:g} TFLOP/s"
    told = f"llama_60m takes {consumed:.3g} tokens/s ({origin})"
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder, sizes = Path(place), {"bytes": options.megabytes, "bpe": options.bpe_megabytes}
        for found in itertools.chain(
            preparing(folder, sizes, options.rounds), reading(folder, consumed, told, options.rounds, options.seconds)
        ):
            rows.append(found)
            print(found, flush=True)
    return keep("data", rows, 1, "cpu") if options.write else missed(rows)


if __name__ == "__main__":
    sys.exit(main())
