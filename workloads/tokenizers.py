"""Text to token ids: bytes, built in, or any tokenizer of Hugging Face's `tokenizers`, by file or hub id.

Every document ends with one end-of-text token; other special tokens are not added.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN_TOKENS = ("<s>", "<|begin_of_text|>", "<bos>")
END_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]")


class Tokenizer(ABC):
    """Encodes documents; `eos` ends each of them."""

    name: str
    vocab: int
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

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self._tokenizer = name, tokenizer
        self.vocab = tokenizer.get_vocab_size(with_added_tokens=True)
        ends = [tokenizer.token_to_id(token) for token in END_TOKENS]
        known = [end for end in ends if end is not None]
        if not known:
            raise ValueError(f"tokenizer {name!r} has no end-of-text token: expected one of {', '.join(END_TOKENS)} in its vocabulary")
        self.eos = known[0]
        self.bos = next((begin for token in BEGIN_TOKENS if (begin := tokenizer.token_to_id(token)) is not None), None)
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, documents: list[str]) -> Iterator[NDArray[np.uint32]]:
        for encoding in self._tokenizer.encode_batch_fast(documents, add_special_tokens=False):
            yield np.array([*encoding.ids, self.eos], dtype=np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        return {"name": self.name, "vocab": self.vocab, "eos": self.eos, "sha256": digest}


def load_tokenizer(name: str) -> Tokenizer:
    """`bytes`, a `tokenizer.json` (or the folder it is in), or an id of the Hugging Face hub.

    Raises:
        ValueError: it is not there, is not a tokenizer, or the `hub` extra is not installed.
    """
    if name == "bytes":
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
    except Exception as error:  # the library raises bare Exception for every cause
        wanted = "expected a tokenizer.json" if is_file else "expected an id of the Hugging Face hub that can be reached from here"
        raise ValueError(f"cannot load tokenizer {name!r}: {wanted}, or bytes ({str(error).splitlines()[0]})") from None
    return HuggingFace(_short_name(path), fast)


def _short_name(path: Path) -> str:
    """`t5-base` for `google-t5/t5-base`, `.../t5-base/tokenizer.json` and `t5-base.json` alike."""
    return path.resolve().parent.name if path.name == "tokenizer.json" else path.name.removesuffix(".json")
