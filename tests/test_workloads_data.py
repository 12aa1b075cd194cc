"""Preparing text, the shards on disk, and reading them by step."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from workloads import batches, layouts, preparation, prepared, shards, text
from workloads.base import Batch
from workloads.batches import TokenData, shuffled, to_batch
from workloads.corpus import StandardLibrary
from workloads.preparation import Preparation
from workloads.tokenizers import Bytes, load_tokenizer

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


def test_every_format_gives_the_same_documents(tmp_path):
    texts = documents(5)
    paragraphs = tmp_path / "a.txt"
    paragraphs.write_text("\ufeff" + "\n\n\n".join(texts) + "\n", encoding="utf-8")
    files = [
        paragraphs,
        write_jsonl(tmp_path / "b.jsonl", texts),
        write_jsonl(tmp_path / "c4-train.00000-of-00001.json.gz", texts),
        write_jsonl(tmp_path / "d.jsonl.gz", texts),
    ]
    for file in files:
        assert list(text.read_documents(file)) == texts, file
    everything = text.local_text(tmp_path)
    assert [file.name for file in everything.files] == sorted(file.name for file in files)
    pairs = list(everything.documents((0, 0)))
    assert [document for document, _ in pairs] == 4 * texts
    for place in (0, 4, 5, 12, 19):
        assert list(everything.documents(pairs[place][1])) == pairs[place + 1 :]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        (
            "a.jsonl",
            b'{"text": "fine"}\n\n{"body": "x"}\n',
            r"a\.jsonl, line 3: expected an object with a string 'text', got an object with 'body'",
        ),
        ("a.jsonl", b"[1]\n", r"line 1: expected an object with a string 'text', got list"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: expected an object with a string 'text'"),
        ("a.txt", b"fine\n\nb\xffd\n", r"a\.txt, line 3: not UTF-8 \(byte 0xff at 1\)"),
        ("a.json.gz", gzip.compress(b'{"text": "fine"}\n' * 9)[:-9], r"a\.json\.gz, after line \d+: the gzip file is cut off or corrupt"),
        ("a.json.gz", b"not gzip", r"after line 0: the gzip file is cut off or corrupt"),
        ("a.csv", b"x", r"a\.csv: expected text as \.txt, \.jsonl"),
    ],
)
def test_broken_text_is_named_by_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(text.local_text(tmp_path / name).documents((0, 0)))


def test_missing_text_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no text at .*nowhere"):
        text.local_text(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no text in .*expected files that end with"):
        text.local_text(tmp_path)


def test_lone_surrogates_and_control_characters_do_no_harm(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b\\u0000c\\u0001"}\n')
    (document,) = text.read_documents(tmp_path / "a.jsonl")
    (ids,) = Bytes().encode([document])
    assert bytes(ids.tolist()) == "a\ufffdb c ".encode() + b"\x01"


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


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("own_validation", [False, True])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_an_interrupted_preparation_ends_with_the_same_files(tmp_path, monkeypatch, layout, own_validation):
    for number in range(3):
        write_jsonl(tmp_path / "text" / f"part-{number}.json.gz", documents(400 + number))
    held_out = text.local_text(write_jsonl(tmp_path / "held-out.jsonl", documents(90))) if own_validation else None
    task = job(tmp_path / "text", layout=layout, validation=held_out, limit=1000)
    whole = tmp_path / "whole"
    list(preparation.prepare(task, whole))

    writes_left = 0
    original = {name: getattr(preparation, name) for name in ("write_shard", "replace_file")}

    def dying(name):
        def call(*args):
            nonlocal writes_left
            writes_left -= 1
            if writes_left == 0:
                if name == "write_shard":
                    (args[0] / args[1]).write_bytes(b"torn")
                raise Killed
            return original[name](*args)

        return call

    for name in original:
        monkeypatch.setattr(preparation, name, dying(name))
    killed = 0
    for first in range(1, 6):
        broken = tmp_path / f"broken-{first}"
        for attempt in itertools.count(first):  # each lives one write longer than the last
            writes_left = attempt
            try:
                list(preparation.prepare(task, broken))
                break
            except Killed:
                killed += 1
                assert not (broken / shards.META).exists()
        assert contents(broken) == contents(whole)
    assert killed > 10
    assert not list(tmp_path.glob("*.partial"))


def test_a_killed_process_is_taken_up(tmp_path):
    write_jsonl(tmp_path / "text.jsonl", documents(3000))
    script = """
import sys, signal, os
from pathlib import Path
from workloads import preparation, text, tokenizers
preparation.BATCH_DOCUMENTS = 64
source = text.local_text(Path(sys.argv[1]))
job = preparation.Preparation(name="mine", source=source, tokenizer=tokenizers.Bytes(), shard_tokens=20_000)
for count, progress in enumerate(preparation.prepare(job, Path(sys.argv[2])), start=1):
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""

    def run(out: str, kill_at: int) -> int:
        words = [sys.executable, "-c", script, str(tmp_path / "text.jsonl"), str(tmp_path / out), str(kill_at)]
        return subprocess.run(words, check=False, env=os.environ, cwd=Path(__file__).parents[1]).returncode

    assert run("whole", 0) == 0
    assert [run("broken", kill_at) for kill_at in (1, 9, 9)] == 3 * [-signal.SIGKILL]
    assert run("broken", 0) == 0
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_an_unfinished_preparation_with_other_settings_is_refused(tmp_path):
    source = write_jsonl(tmp_path / "text.jsonl", documents(900))
    begun = preparation.prepare(job(source), tmp_path / "data" / "mine")
    for _ in range(9):
        next(begun)
    begun.close()
    with pytest.raises(ValueError, match=r"mine\.partial was begun with another layout, length: delete it"):
        list(preparation.prepare(job(source, layout="padded", length=64), tmp_path / "data" / "mine"))


def test_too_little_text_is_refused(tmp_path):
    source = write_jsonl(tmp_path / "text.jsonl", documents(5))
    with pytest.raises(ValueError, match=r"the text gives no validation tokens \(5 documents\)"):
        list(preparation.prepare(job(source, layout="padded"), tmp_path / "data" / "mine"))
    list(preparation.prepare(job(source), tmp_path / "data" / "mine"))
    with pytest.raises(ValueError, match="hold no validation sequence of 256 tokens: use a smaller length"):
        prepared.open_tokens("mine", length=256)


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


def test_the_embedded_corpus_is_the_same_each_time(tmp_path, monkeypatch):
    first = prepared.open_tokens("stdlib", length=128)
    monkeypatch.setenv("SLIMPERF_CACHE", str(tmp_path / "another"))
    assert prepared.open_tokens("stdlib", length=128).identity() == first.identity()
    assert 2_000_000 < first.meta.tokens("train") < 6_000_000
    files = [str(path) for path in StandardLibrary().files()]
    assert not any("/test" in file or "site-packages" in file for file in files)


def test_a_python_without_its_library_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("workloads.corpus.sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ValueError, match=r"holds 0 bytes of source, expected more than 1000000: install the whole Python"):
        prepared.open_tokens("stdlib", length=128)


@pytest.fixture
def tokenizer_file(tmp_path):
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
    trainer = library.trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(documents(100), trainer)
    path = tmp_path / "t5-like" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_of_hugging_face_encodes_and_ends_documents(tmp_path, tokenizer_file):
    library = pytest.importorskip("tokenizers")
    tokenizer = load_tokenizer(str(tokenizer_file))
    assert (tokenizer.name, tokenizer.eos) == ("t5-like", 1)
    assert load_tokenizer(str(tokenizer_file.parent)).identity() == tokenizer.identity()
    expected = library.Tokenizer.from_file(str(tokenizer_file)).encode("alpha beta").ids
    assert next(iter(tokenizer.encode(["alpha beta"]))).tolist() == [*expected, 1]
    data = prepared_data(tmp_path, layout="padded", tokenizer=tokenizer, length=16)
    assert data.identity()["tokenizer"] == "t5-like"
    assert data.meta.largest_id < tokenizer.vocab
    rows = data.train.read(np.arange(len(data.train)))
    cut = data.train.counts(np.arange(len(data.train))) == 15
    assert cut.any()
    assert (rows[cut, 15] == 1).all(), "a document that was cut ends with </s>"


def test_tokenizers_that_cannot_be_loaded_are_said(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=r"no tokenizer at .*nowhere\.json: expected a tokenizer\.json"):
        load_tokenizer(str(tmp_path / "nowhere.json"))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cannot load tokenizer .*broken\.json"):
        load_tokenizer(str(tmp_path / "broken.json"))


def test_c4_is_streamed_file_by_file_and_taken_up(tmp_path):
    pytest.importorskip("datasets")
    texts = documents(30)
    for number in range(3):
        write_jsonl(tmp_path / "c4" / "en" / f"c4-train.{number:05d}-of-00003.json.gz", texts[10 * number : 10 * number + 10])
    source = text.HubText("train", str(tmp_path / "c4"), files=3)
    pairs = list(source.documents((0, 0)))
    assert [document for document, _ in pairs] == texts
    assert list(source.documents(pairs[13][1])) == pairs[14:]


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
