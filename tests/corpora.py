"""Small texts, and data prepared from them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from workloads import preparation, prepared, text
from workloads.batches import TokenData
from workloads.preparation import Preparation
from workloads.tokenizers import Bytes

WORDS = ["alpha", "beta", "gamma", "delta", "naive \u00e9t\u00e9", "epsilon", "zeta"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLIMPERF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "BATCH_DOCUMENTS", 64)  # several shards from little text


def documents(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{number}: " + " ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for number in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0) if path.suffix == ".gz" else lines.encode())
    return path


def job(source: Path, **changes) -> Preparation:
    return Preparation(**{"name": "mine", "source": text.local_text(source), "tokenizer": Bytes(), "shard_tokens": 20_000, **changes})


def prepared_data(tmp_path: Path, *, count: int = 900, length: int = 64, **changes) -> TokenData:
    out = tmp_path / "data" / "mine"
    list(preparation.prepare(job(write_jsonl(tmp_path / "text.jsonl", documents(count)), **changes), out))
    return prepared.open_tokens("mine", length=length)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "verified.json"}
