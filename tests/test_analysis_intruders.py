"""Two checkpoints in safetensors, written by the library and read without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis import intruders


def save(folder: Path, weights: dict[str, torch.Tensor], name: str = intruders.ONE_FILE) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / name)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_values_are_those_that_the_library_wrote(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = intruders.tensors(save(tmp_path / "a", {"w": weight, "norm": torch.ones(3)}))
    assert list(found) == ["w"]
    assert np.array_equal(intruders.widened(found["w"]), weight.double().numpy())


def test_counts_by_threshold_and_depth(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    old = torch.randn(16, 8, generator=generator)
    outside = torch.linalg.qr(torch.cat([old, torch.randn(16, 1, generator=generator)], 1))[0][:, 8]
    new = old + 100 * torch.outer(outside, torch.randn(8, generator=generator))
    table = intruders.count(save(tmp_path / "a", {"w": old}), save(tmp_path / "b", {"w": new}), thresholds=(0.5,), depths=(1, 4))
    assert table.to_dict("records") == [
        {"param": "w", "threshold": 0.5, "depth": 1, "intruders": 1},
        {"param": "w", "threshold": 0.5, "depth": 4, "intruders": 1},
    ]


def test_a_checkpoint_in_several_files(tmp_path: Path) -> None:
    one, two = torch.randn(4, 4), torch.randn(4, 4)
    save(tmp_path / "a", {"x": one}, "model-1.safetensors")
    save(tmp_path / "a", {"y": two}, "model-2.safetensors")
    (tmp_path / "a" / intruders.INDEX).write_text(json.dumps({"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}))
    assert set(intruders.tensors(tmp_path / "a")) == {"x", "y"}
    (tmp_path / "a" / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-2\.safetensors is missing: the checkpoint's index names it"):
        intruders.tensors(tmp_path / "a")


def test_what_is_refused(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", {"w": torch.ones(4, 4)}), save(tmp_path / "b", {"v": torch.ones(4, 4)})
    with pytest.raises(ValueError, match="not of one model: 2 matrices in one of them only, v among them"):
        intruders.count(first, second)
    with pytest.raises(ValueError, match=r"w is \(4, 4\) in .* and \(4, 2\)"):
        intruders.count(first, save(tmp_path / "c", {"w": torch.ones(4, 2)}))
    with pytest.raises(ValueError, match="no checkpoint: expected a"):
        intruders.tensors(tmp_path)
    file = first / intruders.ONE_FILE
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is cut off within w"):
        intruders.tensors(file)


@pytest.mark.parametrize("header", [{"w": {"dtype": "F32", "data_offsets": [0, 64]}}, {"w": [4, 4]}, {"w": {"shape": [4, 4]}}, ["w"]])
def test_a_header_that_lacks_something_is_one_clear_message(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / intruders.ONE_FILE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(ValueError, match=r"model\.safetensors: not a file of safetensors: no header with dtype, shape and data_offsets"):
        intruders.tensors(tmp_path)
