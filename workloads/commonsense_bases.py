"""The model that fine-tuning starts from: a LLaMA checkpoint of Hugging Face, or one that a pre-training workload of ours made.

`slimperf data prepare commonsense-base` trains the latter once and keeps it under $SLIMPERF_CACHE, in a folder named after its recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import corpus
from workloads.shards import sha256_of

if TYPE_CHECKING:
    from workloads.architecture import Architecture
    from workloads.llama import Llama
    from workloads.tokenizers import Tokenizer

MADE = "made:"
ROUND = (8, 16, 32, 64, 128, 256)
"""A checkpoint's embedding may have more rows than its tokenizer has tokens: as many as make a multiple of one of these."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base of our own is made; plain data, so that it can be hashed here and trained by the runner."""

    workload: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    submission: str = "adam"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    tokenizer: str = "bytes"


RECIPES = {
    "llama_nano": Recipe(
        workload="llama_nano",
        overrides={"batch.length": 512, "batch.sequences": 4, "steps": 500, "seconds": 36_000.0, "evaluate_every": 250},
        hyperparameters={"lr": 3e-3},
    )
}
"""By the name that follows `made:`. The length is that of the questions; no time budget binds: every machine makes the same base."""


def made_folder(name: str) -> Path:
    """Where the base made by this recipe is kept: its name holds a hash of the recipe, the workload and the text.

    Raises:
        ValueError: there is no such recipe.
    """
    from workloads.pretraining import WORKLOADS

    if name not in RECIPES:
        raise ValueError(f"checkpoint = {MADE + name!r}: no such recipe; there are {', '.join(MADE + known for known in RECIPES)}")
    recipe = RECIPES[name]
    spec = next(workload.spec() for workload in WORKLOADS if workload.name == recipe.workload)
    content = [asdict(recipe), {key: spec[key] for key in ("model", "data", "tokenizer", "layout")}, corpus.EDITION]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return corpus.cache() / "bases" / f"{name}-{digest[:12]}"


def locate(checkpoint: str) -> Path:
    """The folder of a checkpoint: made by us, local, or fetched from the Hugging Face hub.

    Raises:
        ValueError: it is not there; the message says how to get it.
    """
    if checkpoint.startswith(MADE):
        folder = made_folder(checkpoint.removeprefix(MADE))
        if not (folder / "config.json").exists():
            raise ValueError(f"the base {checkpoint} is not made yet (no {folder}); run once: slimperf data prepare commonsense-base")
        return folder
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the library has an error of its own for every cause, the missing package among them
        raise ValueError(
            f"checkpoint {checkpoint!r} is no folder, and no LLaMA of the Hugging Face hub that can be reached from here "
            f"({(str(error) or type(error).__name__).splitlines()[0]}); fetch it where there is a network, and name its folder: "
            "--override checkpoint=FOLDER"
        ) from None


def shape_of(checkpoint: str) -> Architecture:
    """The shape of a checkpoint; that of a base of ours is known before it is made."""
    name = checkpoint.removeprefix(MADE)
    if checkpoint.startswith(MADE) and not (made_folder(name) / "config.json").exists():
        from workloads.pretraining import WORKLOADS

        return next(workload.model for workload in WORKLOADS if workload.name == RECIPES[name].workload)
    return read_config(locate(checkpoint))


def read_config(folder: Path) -> Architecture:
    """The shape of the checkpoint in `folder`.

    Raises:
        ValueError: it is not a LLaMA that our decoder can be.
    """
    from workloads import checkpoints

    return checkpoints.architecture_of(checkpoints.read_config(folder), folder)


def load_model(folder: Path, *, positions: int, checkpointing: bool) -> Llama:
    """The checkpoint, on the current default device."""
    from workloads.checkpoints import load_checkpoint

    return load_checkpoint(folder, positions=positions, checkpointing=checkpointing)


def open_tokenizer(folder: Path, wanted: str | None, vocab: int | None) -> Tokenizer:
    """The checkpoint's own tokenizer, or the one wanted for it.

    Raises:
        ValueError: it does not fit the model's embedding, or is not the one that the model was trained with.
    """
    from workloads.tokenizers import load_tokenizer

    own = "bytes" if (folder / "recipe.json").exists() else str(folder)
    if wanted is not None and own == "bytes" != wanted:
        raise ValueError(
            f"tokenizer = {wanted!r}: the base in {folder} was trained on bytes; expected tokenizer=bytes, or null for its own"
        )
    tokenizer = load_tokenizer(wanted or own)
    fitting = {tokenizer.vocab, *(-(-tokenizer.vocab // multiple) * multiple for multiple in ROUND)}
    if vocab is not None and vocab not in fitting:
        raise ValueError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab} tokens, the checkpoint in {folder} an embedding of {vocab} rows: they do "
            f"not belong together; expected as many rows, or the next multiple of {', '.join(map(str, ROUND))}; put the checkpoint's own "
            "tokenizer.json into its folder, or name it: --override tokenizer=PATH"
        )
    return tokenizer


def identity(folder: Path) -> dict[str, Any]:
    """Name and hash of the checkpoint: of its weights if it is small, else of the names and sizes of its files."""
    files = sorted(folder.glob("*.safetensors"))
    if sum(file.stat().st_size for file in files) < 2**28:
        digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()
    else:
        digest = hashlib.sha256(repr([(file.name, file.stat().st_size) for file in files]).encode()).hexdigest()
    return {"checkpoint": folder.name, "checkpoint_sha256": digest}
