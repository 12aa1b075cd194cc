"""Text, tokenizers, and preparing shards from them."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from corpora import contents, documents, job, own_folders, prepared_data, write_jsonl  # noqa: F401  # a fixture that acts by itself

from workloads import preparation, prepared, shards, text
from workloads.corpus import StandardLibrary
from workloads.tokenizers import Bytes, load_tokenizer


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
        (
            "a.json.gz",
            gzip.compress(b'{"text": "fine"}\n' * 9)[:-9],
            r"a\.json\.gz, after line \d+: the gzip file is cut off or corrupt",
        ),
        ("a.json.gz", b"not gzip", r"after line 0: the gzip file is cut off or corrupt"),
        ("a.csv", b"x", r"a\.csv: expected text as \.txt, \.jsonl"),
    ],
    ids=["json", "no-text", "a-list", "a-number", "not-utf8", "cut-gzip", "not-gzip", "other-suffix"],
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
    with pytest.raises(
        ValueError, match=r"mine\.partial was begun with another layout \(packed; asked for: padded\), length .*: delete it"
    ):
        list(preparation.prepare(job(source, layout="padded", length=64), tmp_path / "data" / "mine"))


def test_too_little_text_is_refused(tmp_path):
    source = write_jsonl(tmp_path / "text.jsonl", documents(5))
    with pytest.raises(ValueError, match=r"the text gives no validation tokens \(5 documents\)"):
        list(preparation.prepare(job(source, layout="padded"), tmp_path / "data" / "mine"))
    list(preparation.prepare(job(source), tmp_path / "data" / "mine"))
    with pytest.raises(ValueError, match="hold no validation sequence of 256 tokens: use a smaller length"):
        prepared.open_tokens("mine", length=256)


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
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(documents(100), trainer)
    path = tmp_path / "t5-like" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_of_hugging_face_encodes_and_ends_documents(tmp_path, tokenizer_file):
    tokenizer = load_tokenizer(str(tokenizer_file))
    assert (tokenizer.name, tokenizer.eos) == ("t5-like", 1)
    assert load_tokenizer(str(tokenizer_file.parent)).identity() == tokenizer.identity()
    expected = tokenizers.Tokenizer.from_file(str(tokenizer_file)).encode("alpha beta").ids
    assert next(iter(tokenizer.encode(["alpha beta"]))).tolist() == [*expected, 1]
    data = prepared_data(tmp_path, layout="padded", tokenizer=tokenizer, length=16)
    assert data.identity()["tokenizer"] == "t5-like"
    assert data.meta.largest_id < tokenizer.vocab
    rows = data.train.read(np.arange(len(data.train)))
    cut = data.train.counts(np.arange(len(data.train))) == 15
    assert cut.any()
    assert (rows[cut, 15] == 1).all(), "a document that was cut ends with </s>"


def test_tokenizers_that_cannot_be_loaded_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer at .*nowhere\.json: expected a tokenizer\.json"):
        load_tokenizer(str(tmp_path / "nowhere.json"))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cannot load tokenizer .*broken\.json"):
        load_tokenizer(str(tmp_path / "broken.json"))


def test_c4_is_streamed_file_by_file_and_taken_up(tmp_path):
    texts = documents(30)
    for number in range(3):
        write_jsonl(tmp_path / "c4" / "en" / f"c4-train.{number:05d}-of-00003.json.gz", texts[10 * number : 10 * number + 10])
    source = text.HubText("train", str(tmp_path / "c4"), files=3)
    pairs = list(source.documents((0, 0)))
    assert [document for document, _ in pairs] == texts
    assert list(source.documents(pairs[13][1])) == pairs[14:]
