"""Intruder dimensions: leading singular vectors of tuned weights that are nearly orthogonal to all leading ones of the start.

Shuttleworth et al. 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228. Any two checkpoints in
safetensors (a file, or a folder as Hugging Face writes it) are read with numpy alone.
Shapes: W is m x n; U_mk are left singular vectors, the largest first.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
THRESHOLDS = (0.3, 0.5, 0.7)
DEPTHS = (1, 4, 10)
INDEX, ONE_FILE = "model.safetensors.index.json", "model.safetensors"


def count(
    before: Path,
    after: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    depths: Sequence[int] = DEPTHS,
    leading: int | None = None,
) -> pd.DataFrame:
    """One row per matrix, threshold and depth: `intruders` among the first `depth` left singular vectors of the tuned matrix.

    Args:
        leading: how many singular vectors of the start a vector is held against; None takes all.

    Raises:
        ValueError: the checkpoints are not of one model, or hold nothing that changed shape-wise alike.
    """
    old, new = tensors(before), tensors(after)
    if apart := sorted(old.keys() ^ new.keys()):
        raise ValueError(f"{before} and {after} are not of one model: {len(apart)} matrices in one of them only, {apart[0]} among them")
    rows = []
    for name in sorted(old):
        if old[name].shape != new[name].shape:
            raise ValueError(f"{name} is {old[name].shape} in {before} and {new[name].shape} in {after}: expected two states of one model")
        alike_k = similarities(widened(old[name]), widened(new[name]), leading=leading)
        rows += [
            {"param": name, "threshold": threshold, "depth": depth, "intruders": int((alike_k[:depth] < threshold).sum())}
            for threshold in thresholds
            for depth in depths
            if depth <= len(alike_k)
        ]
    if not rows:
        raise ValueError(f"{before}: no matrices in it; expected weights of a model in safetensors")
    return pd.DataFrame(rows)


def similarities(old: Array, new: Array, *, leading: int | None = None) -> NDArray[np.float64]:
    """For each left singular vector of `new`, its largest |cosine| to the first `leading` ones of `old`."""
    U_old = np.linalg.svd(old, full_matrices=False)[0][:, :leading]
    U_new = np.linalg.svd(new, full_matrices=False)[0]
    found: NDArray[np.float64] = np.abs(U_old.T @ U_new).max(axis=0)
    return found


def tensors(place: Path) -> dict[str, Array]:
    """Matrices of a checkpoint by name, mapped from the file as they are stored (bf16 as its bits).

    Raises:
        ValueError: no safetensors there, or a file that is cut off.
    """
    found: dict[str, Array] = {}
    for file in _files(place):
        found.update(_read(file))
    return found


def widened(values: Array) -> NDArray[np.float64]:
    """As fp64; uint16 holds the bits of bf16, the upper half of an fp32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if (place / INDEX).is_file():
        names = set(json.loads((place / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return [place / name for name in sorted(names)]
    if (place / ONE_FILE).is_file():
        return [place / ONE_FILE]
    raise ValueError(f"{place}: no checkpoint: expected a .safetensors file, or a folder with {ONE_FILE} or {INDEX}")


def _read(file: Path) -> Iterator[tuple[str, Array]]:
    """(name, values) of every matrix: 8 bytes with the header's length, a JSON header, then the tensors' bytes."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: the checkpoint's index names it; fetch the checkpoint again")
    with file.open("rb") as handle:
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = [
            (name, entry["dtype"], entry["shape"], *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__" and len(entry["shape"]) == 2
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{file}: not a file of safetensors: no header with dtype, shape and data_offsets of every tensor") from None
    for name, stored, shape, begin, end in entries:
        if stored not in {*DTYPES, "BF16"}:
            raise ValueError(f"{file}: {name} is stored as {stored}; expected one of {', '.join([*DTYPES, 'BF16'])}")
        if 8 + length + end > len(data):
            raise ValueError(f"{file} is cut off within {name}; fetch the checkpoint again")
        kind = np.dtype(DTYPES.get(stored, "<u2"))
        yield name, np.frombuffer(data, kind, count=(end - begin) // kind.itemsize, offset=8 + length + begin).reshape(shape)
