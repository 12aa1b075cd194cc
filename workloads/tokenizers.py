"""Text to token ids: bytes, built in, or any tokenizer of Hugging Face's `tokenizers`, by file or hub id.

Every document ends with one end-of-text token, which stands nowhere else; other special tokens are not added, and a text that
spells one (`<|endoftext|>`) is text. Which token ends a text is what `tokenizer_config.json` says, or else the first known one.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN_TOKENS = ("<s>", "<|begin_of_text|>", "<bos>")
END_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]")
CONFIG = "tokenizer_config.json"


class Tokenizer(ABC):
    """Encodes documents; `eos` ends each of them."""

    name: str
    vocab: int
    """One more than the largest id: ids may have gaps."""
    eos: int
    bos: int | None = None
    """What a fine-tuned model expects before a text; `encode` does not add it."""

    @abstractmethod
    def encode(self, documents: list[str]) -> Iterator[NDArray[np.uint32]]:
        """The ids of each document, with `eos` at the end."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """`name`, `vocab`, `eos`, `sha256`."""


class Bytes(Tokenizer):
    """UTF-8 bytes; the control characters 0 and 1, which text does not use, are blank, and 1 ends a document."""

    name = "bytes"
    vocab = 256
    eos = 1

    def encode(self, documents: list[str]) -> Iterator[NDArray[np.uint32]]:
        for document in documents:
            ids = np.frombuffer(document.encode("utf-8") + b"\x01", dtype=np.uint8).astype(np.uint32)
            ids[:-1][ids[:-1] < 2] = ord(" ")
            yield ids

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(number for number in ids if number > 1).decode("utf-8", errors="replace")

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "vocab": self.vocab, "eos": self.eos, "sha256": None}


class HuggingFace(Tokenizer):
    """A tokenizer of the `tokenizers` library, which encodes a list of documents on all cores."""

    def __init__(self, name: str, tokenizer: Any, config: Mapping[str, Any], eos: str | None = None) -> None:
        """`config`: what stands in the `tokenizer_config.json` that belongs to it; `eos` goes before what that says."""
        self.name, self._tokenizer = name, tokenizer
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab = max(ids.values(), default=-1) + 1
        end = eos or _token(config, "eos_token") or next((token for token in END_TOKENS if token in ids), None)
        if end is None:
            raise ValueError(
                f"tokenizer {name!r} does not say which token ends a text: expected eos_token in a {CONFIG} beside it, or one of "
                f"{', '.join(END_TOKENS)} in its vocabulary; name another with --eos TOKEN"
            )
        if end not in ids:
            said = "--eos" if eos else f"eos_token of its {CONFIG}"
            raise ValueError(f"tokenizer {name!r} has no token {end!r} ({said}): expected one of its vocabulary; name it with --eos TOKEN")
        self.eos = ids[end]
        begin = [_token(config, "bos_token")] if "bos_token" in config else BEGIN_TOKENS
        self.bos = next((ids[token] for token in begin if token in ids), None)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True

    def encode(self, documents: list[str]) -> Iterator[NDArray[np.uint32]]:
        end = np.array([self.eos], dtype=np.uint32)
        for encoding in self._tokenizer.encode_batch_fast(documents, add_special_tokens=False):
            ids = np.array(encoding.ids, dtype=np.uint32)
            yield np.concatenate([ids[ids != self.eos], end])  # a unigram model finds `</s>` in a text like any other word

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        return {"name": self.name, "vocab": self.vocab, "eos": self.eos, "sha256": digest}


def load_tokenizer(name: str, *, eos: str | None = None) -> Tokenizer:
    """`bytes`, a `tokenizer.json` (or the folder it is in), or an id of the Hugging Face hub; `eos` names the token that ends a text.

    Raises:
        ValueError: it is not there, is not a tokenizer, does not know what ends a text, or the `hub` extra is not installed.
    """
    if name == "bytes":
        if eos is not None:
            raise ValueError(f"--eos {eos}: bytes end a text with the byte 1; expected it with a tokenizer of Hugging Face")
        return Bytes()
    try:
        from tokenizers import Tokenizer as Fast
    except ImportError:
        raise ValueError(f"tokenizer {name!r} needs the package tokenizers: pip install 'slimperf[hub]', or take bytes") from None
    path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    is_file = path.exists()
    if not is_file and (name.endswith(".json") or Path(name).is_dir()):
        raise ValueError(f"no tokenizer at {path}: expected a tokenizer.json of Hugging Face, an id of its hub, or bytes")
    try:
        fast = Fast.from_file(str(path)) if is_file else Fast.from_pretrained(name)
        config = _config_beside(path) if is_file else _config_of_hub(name)
    except Exception as error:  # the library raises bare Exception for every cause
        wanted = "expected a tokenizer.json" if is_file else "expected an id of the Hugging Face hub that can be reached from here"
        raise ValueError(f"cannot load tokenizer {name!r}: {wanted}, or bytes ({str(error).splitlines()[0]})") from None
    return HuggingFace(_short_name(path), fast, config, eos)


def _config_beside(path: Path) -> dict[str, Any]:
    """What belongs to a `tokenizer.json`; a file of another name stands alone."""
    beside = path.with_name(CONFIG)
    return _read_config(beside) if path.name == "tokenizer.json" and beside.exists() else {}


def _config_of_hub(name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _read_config(Path(hf_hub_download(name, CONFIG)))
    except EntryNotFoundError:  # also where there is no network and only tokenizer.json was fetched before
        return {}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no object but {type(config).__name__}")
    return config


def _token(config: Mapping[str, Any], key: str) -> str | None:
    """The token that a configuration names, as text or as an object with `content`."""
    found = config.get(key)
    return found.get("content") if isinstance(found, dict) else found


def _short_name(path: Path) -> str:
    """`t5-base` for `google-t5/t5-base`, `.../t5-base/tokenizer.json` and `t5-base.json` alike."""
    return path.resolve().parent.name if path.name == "tokenizer.json" else path.name.removesuffix(".json")
