"""A tiny base, small task files in the layout of LLM-Adapters, and workloads on them: material for tests of fine-tuning."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from workloads.architecture import Architecture
from workloads.checkpoints import save_checkpoint
from workloads.llama import Llama, initialise

REAL = Path(os.environ.get("SLIMPERF_COMMONSENSE") or Path(__file__).resolve().parents[2] / "shared" / "data" / "commonsense")
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason="no real task files: set SLIMPERF_COMMONSENSE to a folder of LLM-Adapters data")
OVERRIDES = {"batch.length": 96, "batch.sequences": 4, "evaluate_every": 2, "steps": 4, "held_out": 6, "test_examples": 8}


def boolean(number: int) -> dict[str, str]:
    answer = "true" if number % 3 else "false"
    question = f"is {number} no multiple of three?"
    return {"instruction": f"{question}\n\nAnswer format: true/false", "output": f"the correct answer is {answer}", "answer": answer}


def choice(number: int) -> dict[str, str]:
    answer = f"answer{number % 3 + 1}"
    question = f"which is it, {number}?\n\nAnswer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2/answer3"
    return {"instruction": question, "output": f"the correct answer is {answer}", "answer": answer}


def write_tasks(folder: Path, *, train: int = 20, test: int = 12, **entries: Any) -> Path:
    """Two tasks; `boolq_test` and the like replace one file's entries."""
    for task, make in (("boolq", boolean), ("ARC-Easy", choice)):
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split, count in (("train", train), ("test", test)):
            content = entries.get(f"{task}_{split}", [make(number) for number in range(count)])
            (folder / task / f"{split}.json").write_text(json.dumps(content))
    return folder


def write_base(folder: Path, *, vocab: int = 256) -> Path:
    """A checkpoint of two layers with random weights."""
    model = Llama(Architecture(hidden=16, mlp=24, layers=2, heads=2, vocab=vocab, init="fan_in"), positions=128)
    initialise(model, 0)
    save_checkpoint(model, folder)
    return folder


def overrides(folder: Path, **changed: Any) -> dict[str, Any]:
    """Changes of the nano workloads that put them on what `write_tasks` and `write_base` wrote below `folder`."""
    places = {"data": str(folder / "data"), "checkpoint": str(folder / "base"), "tokenizer": "bytes"}
    return {**OVERRIDES, **places, **changed}
