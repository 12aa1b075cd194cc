"""The shards on disk, and reading them by step."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import shutil
import types

import numpy as np
import pytest
from corpora import documents, own_folders, prepared_data  # noqa: F401  # a fixture that acts by itself

from workloads import batches, layouts, prepared, shards
from workloads.base import Batch
from workloads.batches import TokenData, shuffled, to_batch
from workloads.tokenizers import Bytes


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_shards_hold_every_token_once(tmp_path, layout):
    texts = documents(900)
    data = prepared_data(tmp_path, layout=layout)
    assert len([shard for shard in data.meta.shards if shard.file.startswith("train") and shard.file.endswith("tokens")]) > 2
    ids = list(Bytes().encode(texts))
    expected = np.sort(np.concatenate(ids))
    found = [np.concatenate(shards.map_shards(tmp_path / "data" / "mine", data.meta, split)[0]) for split in ("train", "validation")]
    assert np.array_equal(np.sort(np.concatenate(found)), expected)
    assert len(found[1]) == pytest.approx(len(expected) / layouts.EVERY, rel=0.25)
    assert data.meta.documents == 900


def test_padded_rows_are_documents_and_mask_the_padding(tmp_path):
    data = prepared_data(tmp_path, layout="padded", length=64)
    ids = [layouts.cut(document, 64, 1) for number, document in enumerate(Bytes().encode(documents(900)))]
    batch = Batch(sequences=16, length=64)
    numbers = data.rows(0, 1, batch)
    tokens = to_batch(data.train.read(numbers), "cpu")
    known = {document.tobytes() for document in ids}
    for inputs, targets in zip(tokens.inputs_bt.numpy(), tokens.targets_bt.numpy(), strict=True):
        size = int((targets >= 0).sum()) + 1
        document = inputs[:size].astype(np.uint32)
        assert document.tobytes() in known
        assert np.array_equal(targets[: size - 1], document[1:])
        assert (targets[size - 1 :] == -100).all()
        assert (inputs[size:] == 0).all()
    assert tokens.target_count == data.target_tokens(0, 1, batch) < 16 * 63


def test_packed_rows_follow_each_other_without_loss(tmp_path):
    data = prepared_data(tmp_path, length=32)
    rows = data.train.read(np.arange(200))
    assert (rows >= 0).all()
    stream = shards.map_shards(tmp_path / "data" / "mine", data.meta, "train")[0][0]
    assert np.array_equal(rows[:, :32].ravel(), stream[: 200 * 32])
    assert np.array_equal(rows[:-1, 32], rows[1:, 0])
    assert data.target_tokens(0, 1, Batch(sequences=4, length=32)) == 128


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_batch_depends_on_seed_and_step_alone(tmp_path, layout):
    data = prepared_data(tmp_path, layout=layout)
    batch = Batch(sequences=12, length=64, micro=5)

    def global_batch(seed: int, step: int, world: int, source: TokenData = data) -> np.ndarray:
        parts = [tokens for rank in range(world) for tokens in source.micro_batches(seed, step, batch, "cpu", rank=rank, world=world)]
        return np.concatenate([tokens.inputs_bt.numpy() for tokens in parts])

    again = prepared.open_tokens("mine", length=64)
    for step in (1, 2, 77, 1000):
        alone = global_batch(5, step, 1)
        assert alone.shape == (12, 64)
        for world in (2, 3, 4):
            assert np.array_equal(global_batch(5, step, world, again), alone)
    assert not np.array_equal(global_batch(5, 1, 1), global_batch(6, 1, 1))
    assert not np.array_equal(global_batch(5, 1, 1), global_batch(5, 2, 1))
    with pytest.raises(ValueError, match="12 sequences per step cannot be shared by 5 devices"):
        list(data.micro_batches(5, 1, batch, "cpu", world=5))


def test_an_epoch_reads_every_sequence_once(tmp_path):
    data = prepared_data(tmp_path, layout="padded")
    count = len(data.train)
    batch = Batch(sequences=10, length=64)
    steps = [data.rows(3, step, batch) for step in range(1, 2 * count // 10 + 2)]
    order = np.concatenate(steps)
    first, second = order[:count], order[count : 2 * count]
    assert np.array_equal(np.sort(first), np.arange(count))
    assert np.array_equal(np.sort(second), np.arange(count))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000, 4097])
def test_the_shuffle_is_a_permutation_without_order(count):
    out = shuffled(np.arange(count), count, "key")
    assert np.array_equal(np.sort(out), np.arange(count))
    if count >= 1000:
        assert abs(np.corrcoef(np.arange(count), out)[0, 1]) < 0.1
        assert np.mean(np.diff(out) == 1) < 0.01


def test_a_damaged_shard_is_named(tmp_path):
    prepared_data(tmp_path)
    folder = tmp_path / "data" / "mine"
    shard = folder / "train-00001.tokens"
    whole = shard.read_bytes()

    def message() -> str:
        with pytest.raises(ValueError, match="slimperf data prepare SOURCE --name mine") as caught:
            prepared.open_tokens("mine", length=64)
        return str(caught.value)

    shard.write_bytes(whole[:-1])
    assert "train-00001.tokens has" in message()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert "train-00001.tokens was changed or is corrupt" in message()
    shard.unlink()
    assert "train-00001.tokens is missing" in message()
    shard.write_bytes(whole)
    prepared.open_tokens("mine", length=64)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "layout": "padded"}))
    assert "was changed after it was written" in message()
    (folder / "meta.json").write_text("{")
    assert "is not a description of prepared data" in message()


def test_large_data_are_hashed_once_and_then_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL", 0)
    hashed = []
    original = shards.sha256_of
    monkeypatch.setattr(shards, "sha256_of", lambda path: hashed.append(path) or original(path))
    data = prepared_data(tmp_path)
    folder = tmp_path / "data" / "mine"
    assert len(hashed) == len(data.meta.shards)
    prepared.open_tokens("mine", length=64)
    assert len(hashed) == len(data.meta.shards)
    shards.verify(folder, data.meta, full=True)
    assert len(hashed) == 2 * len(data.meta.shards)
    shard = folder / "train-00000.tokens"
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    os.utime(shard, ns=(1, 1))
    with pytest.raises(ValueError, match=r"train-00000\.tokens was changed"):
        prepared.open_tokens("mine", length=64)


def test_data_that_do_not_fit_the_workload_are_refused(tmp_path):
    prepared_data(tmp_path, layout="padded", length=64)
    for wanted, message in (
        ({"tokenizer": "t5-base"}, "have tokenizer bytes, expected t5-base"),
        ({"layout": "packed"}, "have layout padded, expected packed"),
        ({"vocab": 100}, r"hold token id \d+, but the model has 100"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared.open_tokens("mine", length=64, **wanted)
    with pytest.raises(ValueError, match=r"data 'mime' are not prepared.*did you mean 'mine'.*slimperf data prepare SOURCE --name mime"):
        prepared.open_tokens("mime", length=64)
    assert prepared.open_tokens(str(tmp_path / "data" / "mine"), length=32).identity()["name"] == "mine"


def test_identity_is_of_the_tokens_not_of_the_name(tmp_path):
    data = prepared_data(tmp_path)
    shutil.move(tmp_path / "data" / "mine", tmp_path / "data" / "other")
    assert prepared.open_tokens("other", length=64).identity() == data.identity()
    assert dataclasses.replace(data.meta, name="x").sha256 == data.meta.sha256
    assert dataclasses.replace(data.meta, layout="padded").sha256 != data.meta.sha256


class Counted(np.memmap):
    """A mapped shard that notes the bytes of every slice taken of it."""

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self.taken.append(found.nbytes)
        return found


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_batch_reads_its_own_tokens_and_no_others(tmp_path, layout, monkeypatch):
    data = prepared_data(tmp_path, layout=layout, length=64)
    asked, taken = [], []
    monkeypatch.setattr(batches, "fetch", lambda values, start, end: asked.append((end - start) * values.itemsize))
    for number, tokens in enumerate(data.train._tokens):
        counted = tokens.view(Counted)
        counted.taken = taken
        data.train._tokens[number] = counted
    rows = data.rows(0, 1, Batch(sequences=16, length=64))
    read = data.train.read(rows)
    own = int((read >= 0).sum()) * data.train._tokens[0].itemsize
    assert sum(taken) == own
    assert sum(asked) == own, "the system is asked for as much"


def test_a_stretch_is_fetched_to_its_last_byte(tmp_path):
    (tmp_path / "numbers").write_bytes(np.arange(5000, dtype="uint16").tobytes())
    with (tmp_path / "numbers").open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype="uint16")
    asked = []

    class Map:
        def madvise(self, option, start, length):
            asked.append((option, start, length))

    class Values:
        itemsize, base = 2, types.SimpleNamespace(obj=Map())

    shards.fetch(Values(), 4000, 4100)
    assert asked == [(mmap.MADV_WILLNEED, 8000 // mmap.PAGESIZE * mmap.PAGESIZE, 8200 - 8000 // mmap.PAGESIZE * mmap.PAGESIZE)]
    shards.fetch(mapped, 4990, 5000)
    assert mapped[-1] == 4999
