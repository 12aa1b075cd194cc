"""`slimperf data`: what it refuses, what it finds damaged, and how it goes on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from commonsense import write_tasks
from corpora import contents, documents, job, own_folders, prepared_data, write_jsonl  # noqa: F401  # a fixture that acts by itself

from runner import cli
from workloads import preparation, prepared


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "text.jsonl", documents(900))


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which `slimperf data` refuses."""
    assert cli.main(["data", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("slimperf: error: ")
    assert error.count("\n") == 1
    return error


def test_other_text_or_settings_under_the_same_name_are_refused(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare = ("prepare", text, "--name", "mine", "--quiet")
    assert cli.main(["data", *map(str, prepare)]) == 0
    whole = contents(tmp_path / "data" / "mine")
    other = write_jsonl(tmp_path / "other" / "text.jsonl", documents(800))
    assert "another limit (none; asked for: 500): choose another --name, or remove" in refused(capsys, *prepare, "--documents", 500)
    assert "another length (none; asked for: 64)" in refused(capsys, *prepare, "--length", 64)
    assert "another validation (none; asked for: text.jsonl, " in refused(capsys, *prepare, "--validation-source", other)
    error = refused(capsys, "prepare", other, "--name", "mine")
    assert f"another source (text.jsonl, {text.stat().st_size} bytes of " in error
    assert f"asked for: text.jsonl, {other.stat().st_size} bytes of " in error
    assert "asked for: text.jsonl, " in (error := refused(capsys, *prepare, "--field", "url"))
    assert ", field url): choose" in error
    assert contents(tmp_path / "data" / "mine") == whole
    assert cli.main(["data", *map(str, prepare)]) == 0
    assert "is there already" in capsys.readouterr().out


def test_data_that_do_not_say_how_many_documents_were_asked_for_are_there_already(tmp_path: Path) -> None:
    prepared_data(tmp_path)
    meta = tmp_path / "data" / "mine" / "meta.json"
    row = json.loads(meta.read_text())
    del row["source"]["limit"]
    meta.write_text(json.dumps(row))
    assert list(preparation.prepare(job(tmp_path / "text.jsonl", limit=5), meta.parent)) == []


def test_a_truncated_shard_is_not_there_already(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "prepare", str(text), "--name", "mine"]) == 0
    shard = tmp_path / "data" / "mine" / "train-00000.tokens"
    os.truncate(shard, 100)
    error = refused(capsys, "prepare", text, "--name", "mine")
    assert f"shard {shard} has 100 bytes, expected " in error
    assert f"delete {shard.parent} and run: slimperf data prepare" in error


@pytest.mark.parametrize("damage", ["missing", "short", "journal"])
def test_a_damaged_unfinished_preparation_is_named(tmp_path: Path, text: Path, damage: str) -> None:
    out = tmp_path / "data" / "mine"
    begun = preparation.prepare(job(text), out)
    for _ in range(9):
        next(begun)
    begun.close()
    partial = tmp_path / "data" / "mine.partial"
    shard = partial / "train-00000.tokens"
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        os.truncate(shard, 7)
    else:
        (partial / "journal.json").write_text('{"settings": 3')
    journal = partial / "journal.json"
    said = {"missing": f"shard {shard} is missing", "short": f"shard {shard} has 7 bytes", "journal": f"{journal} is damaged"}
    with pytest.raises(ValueError, match=f"{re.escape(said[damage])}.*delete {partial} to begin anew"):
        list(preparation.prepare(job(text), out))


@pytest.mark.parametrize("there", ["a file", "a folder with other files"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(
    tmp_path: Path, text: Path, there: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    monkeypatch.setattr("workloads.text.read_documents", lambda file: pytest.fail("the text is read"))
    assert f"{out} is {there}: expected a new or an empty folder" in refused(capsys, "prepare", text, "--out", out)
    tasks = write_tasks(tmp_path / "tasks")
    assert f"{out} is {there}" in refused(capsys, "prepare", "commonsense", "--source", tasks, "--out", out)
    assert not list(tmp_path.glob("*.partial"))


def test_an_empty_folder_is_filled(tmp_path: Path, text: Path) -> None:
    (tmp_path / "out").mkdir()
    assert cli.main(["data", "prepare", str(text), "--out", str(tmp_path / "out")]) == 0
    assert prepared.open_tokens(str(tmp_path / "out"), length=64).meta.documents == 900


def test_other_task_files_under_the_same_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = write_tasks(tmp_path / "a"), write_tasks(tmp_path / "b", train=21)
    prepare = ["data", "prepare", "commonsense", "--source"]
    assert cli.main([*prepare, str(first)]) == 0
    assert cli.main([*prepare, str(first)]) == 0
    assert "holds other task files (sha256 " in refused(capsys, *prepare[1:], other)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["commonsense"]


def test_the_name_of_the_embedded_text_is_taken(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((text, "--name", "stdlib"), ("stdlib",), (text, "--out", tmp_path / "stdlib")):
        assert "--name stdlib: the embedded text is called so" in refused(capsys, "prepare", *words)
    assert not (tmp_path / "data").exists()


def test_nothing_else_is_found_under_the_name_of_the_embedded_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared_data(tmp_path)
    (tmp_path / "data" / "mine").rename(tmp_path / "data" / "stdlib")
    monkeypatch.chdir(tmp_path / "data")
    assert prepared.find_data("stdlib").parent == tmp_path / "cache"
    assert prepared.find_data("./stdlib") == Path("stdlib")


IDLE = {
    ("commonsense", "--source", ".", "--documents", "10"): "--documents 10 does not apply to `prepare commonsense`, which takes --source",
    ("commonsense", "--source", ".", "--tokenizer", "nosuch"): "--tokenizer nosuch does not apply",
    ("commonsense", "--source", ".", "--length", "4"): "--length 4 does not apply",
    ("commonsense-base", "--name", "x"): "--name x does not apply to `prepare commonsense-base`, which takes none of these",
    ("text.jsonl", "--source", "."): "--source . does not apply to `prepare text.jsonl`, which takes --name",
}


@pytest.mark.parametrize("words", IDLE, ids=" ".join)
def test_arguments_that_do_not_apply_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert IDLE[words] in refused(capsys, "prepare", *words)


def test_one_damaged_folder_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared_data(tmp_path)
    assert cli.main(["data", "prepare", "commonsense", "--source", str(write_tasks(tmp_path / "tasks")), "--name", "questions"]) == 0
    for name, file in (("broken", "meta.json"), ("edited", "tasks.json")):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / file).write_text("{")
    capsys.readouterr()
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["broken", "damaged"],
        ["mine", "bytes"],
        ["edited", "damaged"],
        ["questions", "any"],
    ]
    assert str(tmp_path / "data" / "broken" / "meta.json") in lines[5]
    assert str(tmp_path / "data" / "edited" / "tasks.json") in lines[6]


def test_a_stop_says_that_the_command_goes_on(text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "arrange", stopped)
        assert cli.main(["data", "prepare", str(text), "--name", "mine"]) == 130
    assert "stopped; the same command goes on behind the last whole shard in" in capsys.readouterr().err
    assert cli.main(["data", "prepare", str(text), "--name", "mine"]) == 0


def test_packed_data_from_cut_documents_serve_every_length(tmp_path: Path) -> None:
    out = tmp_path / "data" / "cut"
    list(preparation.prepare(job(write_jsonl(tmp_path / "text.jsonl", documents(900)), length=20), out))
    assert prepared.open_tokens("cut", length=128).identity()["sequences"] > 0
    list(preparation.prepare(job(tmp_path / "text.jsonl", length=20, layout="padded"), out.with_name("short")))
    with pytest.raises(ValueError, match="keep 20 tokens of a document, expected 128 or more"):
        prepared.open_tokens("short", length=128)
