"""Predicted peak memory of 7B pre-training (batch 1 to 16 at 256 tokens) and fine-tuning: nothing is trained, no GPU is needed.

    python tests/benchmarks/bench_memory.py [--batches 1 2 4 8 16] [--only NAME ...] [--write]

In pre-training updates run inside the backward pass, layers are recomputed, and the logits of 2048 tokens are alive at a time; weights
are bf16. `--write` keeps results/performance/memory_7b.csv and .md, and results/commonsense/memory/llama7b.csv. The same count, taken
live on a CPU, is held to the prediction in the tests.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys

from measured import FOLDER

from runner import cards, catalog, memory
from runner.commands import memory as command
from submissions.adam import Adam
from submissions.adam8bit import Adam8bit
from submissions.apollo import Apollo
from submissions.apollo_mini import ApolloMini
from submissions.base import Submission
from submissions.fira import Fira
from submissions.galore import Galore
from submissions.galore8bit import Galore8bit
from submissions.sgd import Sgd

RANK, SLIM = 1024, 256
SETTINGS: dict[str, Submission] = {
    "adam, bf16 state": Adam(state_dtype="bf16"),
    "adam8bit": Adam8bit(),
    "galore r1024, fp32 state": Galore(rank=RANK),
    "galore r1024, bf16 state": Galore(rank=RANK, state_dtype="bf16_stochastic"),
    "galore8bit r1024": Galore8bit(rank=RANK),
    "fira r1024, bf16 state": Fira(rank=RANK, state_dtype="bf16_stochastic"),
    "fira r256, bf16 state": Fira(rank=SLIM, state_dtype="bf16_stochastic"),
    "apollo r256, bf16 state, seed only": Apollo(rank=SLIM, store=False, state_dtype="bf16_stochastic"),
    "apollo_mini, bf16 state": ApolloMini(state_dtype="bf16_stochastic"),
    "sgd": Sgd(),
}
GIB = 2**30
COMMONSENSE = "commonsense"
"""In --only: the fine-tuning workloads."""
SLIMMER: dict[str, dict[str, object]] = {
    "as declared": {},
    "checkpointing": {"checkpointing": True},
    "checkpointing, 1 at once": {"checkpointing": True, "batch.micro": 1},
    "checkpointing, layerwise": {"checkpointing": True, "layerwise": True, "batch.micro": None},
}
ON_LORA = ["adam", "galore", "fira"]
WHOLE = ["adam", "adam8bit", "galore", "fira", "lisa"]


def needed(submission: Submission, sequences: int) -> int:
    """Bytes at the peak."""
    slim = {"layerwise": True, "checkpointing": True, "loss_chunk": 2048, "batch.sequences": sequences, "batch.micro": None}
    return memory.predict(dataclasses.replace(submission, clip=None), catalog.workload("llama_7b", slim))["peak"]


Table = dict[tuple[str, int], int]
"""Predicted bytes by (setting, batch)."""


def known() -> Table:
    """What earlier runs have written."""
    path = FOLDER / "memory_7b.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {(row["submission"], int(row["batch"])): int(row["predicted_peak_bytes"]) for row in csv.DictReader(stream)}


def write(found: Table) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = [name for name in SETTINGS if any(key[0] == name for key in found)]
    batches = sorted({batch for _, batch in found})
    with (FOLDER / "memory_7b.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["submission", "batch", "length", "predicted_peak_bytes"])
        writer.writerows([name, batch, 256, found[name, batch]] for name in names for batch in batches if (name, batch) in found)
    lines = ["| submission | " + " | ".join(f"batch {batch}" for batch in batches) + " |", "|---" * (len(batches) + 1) + "|"]
    for name in names:
        cells = (f"{found[name, batch] / GIB:.2f}" if (name, batch) in found else "" for batch in batches)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = "Predicted peak of LLaMA-7B pre-training at 256 tokens, GiB; **not yet measured on a GPU** (`tests/benchmarks/bench_memory.py`)."
    (FOLDER / "memory_7b.md").write_text("\n".join([note, "", *lines, ""]), encoding="utf-8")


def fine_tuning() -> list[dict[str, object]]:
    """A row per setting and submission; settings that a submission refuses are left out."""
    kinds: list[tuple[str, list[str], dict[str, object]]] = [
        ("commonsense_llama7b_adapters", ON_LORA, {"submission": "lora"}),
        ("commonsense_llama7b_full", WHOLE, {}),
    ]
    rows: list[dict[str, object]] = []
    for workload, names, adapter in kinds:
        for setting, overrides in SLIMMER.items():
            for name in names:
                try:
                    (found,), _ = command.table(workload, overrides, [name], {"clip": None}, adapter)
                except ValueError as error:
                    print(f"{name}, {setting}: {error}")
                    continue
                sizes = {key: value for key, value in found.items() if key.startswith("bytes_")}
                label = f"lora+{name}" if adapter else name
                fits = cards.fits(found["bytes_total"], cards.parse("24GB"))
                rows.append({"workload": workload, "setting": setting, "submission": label, **sizes, "fits_24gb": fits})
                print(f"{workload}, {setting}: {label} {found['bytes_total'] / GIB:.2f} GiB", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    everything = [*SETTINGS, COMMONSENSE]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything, help="settings to predict; other rows stay")
    parser.add_argument("--write", action="store_true", help="keep the rows in results/performance")
    options = parser.parse_args()
    if COMMONSENSE in options.only:
        rows = fine_tuning()
        if options.write:
            command.write_csv(rows, FOLDER.parent / "commonsense" / "memory" / "llama7b.csv")
    for name in (name for name in options.only if name in SETTINGS):
        for batch in options.batches:
            size = needed(SETTINGS[name], batch)
            if options.write:
                write(known() | {(name, batch): size})
            print(f"{name}, batch {batch}: {size / GIB:.2f} GiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
