"""Which files of a folder are read, for what, and what their lines may hold."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
from corpora import documents, own_folders, write_jsonl  # noqa: F401  # a fixture that acts by itself

from runner import cli
from workloads import prepared, text, text_files


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"a paragraph of {name}".encode()
        path.write_bytes(gzip.compress(content, mtime=0) if name.lower().endswith(".gz") else content)
    return folder


def names(source: text.LocalText | None) -> list[str]:
    assert source is not None
    return [source.name(file) for file in source.files]


def test_text_is_known_by_its_ending_in_any_case_and_what_is_hidden_is_passed_over(tmp_path):
    folder = write(tmp_path, "a.txt", "b.TXT", "c.txt.gz", "sub/d.Txt", ".git/e.txt", ".f.txt", "sub/.cache/g.txt", "notes.md", "data.csv")
    (folder / "gone.txt").symlink_to("nowhere")
    source = text.local_text(folder)
    assert names(source) == ["a.txt", "b.TXT", "c.txt.gz", "sub/d.Txt"]
    assert source.skipped == ("data.csv", "gone.txt (a broken link)", "notes.md")
    assert [document for document, _ in source.documents((0, 0))] == [f"a paragraph of {name}" for name in names(source)]


def test_linked_folders_are_entered_once_and_never_in_circles(tmp_path):
    folder = write(tmp_path / "corpus", "a.txt", "z/b.txt")
    write(tmp_path / "outside", "c.txt")
    (folder / "z" / "up").symlink_to("..")
    (folder / "early").symlink_to("z")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "z" / "again").symlink_to(tmp_path / "outside")
    source = text.local_text(folder)
    assert names(source) == ["a.txt", "link/c.txt", "z/b.txt"]
    assert source.identity()["files"][1][:2] == ["link/c.txt", 20]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("c4-validation.00003-of-00008.json.gz", True),
        ("validation.jsonl", True),
        ("wiki_VALID.txt", True),
        ("wiki.val.2.txt", True),
        ("dev.txt.gz", True),
        ("dev-03.txt", True),
        ("python-dev-2004.txt", False),
        ("val-di-fassa.txt", False),
        ("val2017.json", True),
        ("validation/a.txt", True),
        ("sub/Dev/a.txt", True),
        ("cross-validation.txt", False),
        ("invalid.txt", False),
        ("values.txt", False),
        ("device.txt", False),
        ("my-validation-notes/a.txt", False),
        ("c4-train.00000-of-00008.json.gz", False),
    ],
)
def test_files_for_validation_are_named_by_a_whole_word_or_a_folder(name, expected):
    assert text_files.is_held_out(Path(name)) == expected


def test_a_folder_brings_its_own_split_or_is_given_one(tmp_path):
    folder = write(tmp_path / "corpus", "train/a.txt", "train/b.txt", "validation/c.txt", "cross-validation.txt")
    train, held_out = text.local_text(folder).split()
    assert (names(train), names(held_out)) == (["cross-validation.txt", "train/a.txt", "train/b.txt"], ["validation/c.txt"])
    everything = text.local_text(folder / "validation")
    assert everything.split()[1] is None
    assert names(text.local_text(folder / "train").split()[0]) == ["a.txt", "b.txt"]
    given = text.local_text(folder / "train" / "b.txt")
    train, held_out = text.local_text(folder).split(given)
    assert (names(train), held_out) == (["cross-validation.txt", "train/a.txt"], given)
    assert train.skipped == ("validation/c.txt (named as validation)",)
    with pytest.raises(ValueError, match=r"every text file there is for validation; expected others to train on"):
        given.split(given)


def test_the_command_says_what_is_read_held_out_and_left_out(tmp_path, capsys):
    folder = write(tmp_path / "corpus", "a.txt", "b.txt", "c.txt", "d.txt", "dev/e.txt", "notes.md")
    assert cli.main(["data", "prepare", str(folder), "--quiet"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "text: 4 files (a.txt, b.txt, c.txt, ...) to train on; for validation, 1 file (dev/e.txt) held out"
    assert out[1] == "not read: 1 file (notes.md)"
    assert cli.main(["data", "prepare", str(folder / "a.txt"), "--quiet"]) == 0
    assert "text: 1 file (a.txt) to train on; for validation, every 20th part is held out\n" in capsys.readouterr().out
    write(tmp_path / "empty", "notes.md")
    assert cli.main(["data", "prepare", str(tmp_path / "empty")]) == 2
    assert (
        "expected files that end with .txt, .jsonl, .json, .txt.gz, .jsonl.gz, .json.gz; found 1 file (notes.md)" in capsys.readouterr().err
    )


def test_text_may_be_in_another_field_or_inside_one(tmp_path, capsys):
    rows = [{"content": f"text {number}", "data": {"text": f"inner {number}"}, "text": 3} for number in range(50)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert next(iter(text.local_text(file, field="content").documents((0, 0))))[0] == "text 0"
    assert cli.main(["data", "prepare", str(file), "--field", "data.text", "--layout", "padded", "--name", "inner"]) == 0
    data = prepared.open_tokens("inner", length=16)
    assert bytes(data.train.read(data.validation_rows(1)[0])[0][:7].tolist()) == b"inner 0"
    assert data.meta.source["train"]["field"] == "data.text"
    assert "field" not in text.local_text(file).identity()
    capsys.readouterr()
    for words in ([], ["--field", "content.text"]):
        assert cli.main(["data", "prepare", str(file), "--name", "other", *words]) == 2
        assert "got an object with 'content', 'data', 'text'; name the field that holds the text: --field NAME" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "stdlib", "--field", "content"]) == 2
    assert "--field content does not apply to `prepare stdlib`" in capsys.readouterr().err


def test_an_end_of_text_is_named_on_the_command_line(tmp_path, capsys):
    assert cli.main(["data", "prepare", str(write(tmp_path / "a", "a.txt")), "--eos", "[EOS]"]) == 2
    assert "--eos [EOS]: bytes end a text with the byte 1" in capsys.readouterr().err


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path):
    depth = 10 * sys.getrecursionlimit()
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n{"text": "x", "m": ' + depth * "[" + depth * "]" + "}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: nested too deeply"):
        list(text.read_documents(file))


def test_a_number_of_many_digits_beside_the_text_does_no_harm(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine", "m": ' + 5000 * "1" + "}\n")
    assert list(text.read_documents(file)) == ["fine"]


def test_files_that_are_read_are_found_again_where_a_run_was_stopped(tmp_path):
    write_jsonl(tmp_path / "b.JSONL", documents(4))
    write(tmp_path, "a.txt")
    source = text.local_text(tmp_path)
    pairs = list(source.documents((0, 0)))
    assert list(source.documents(pairs[2][1])) == pairs[3:]
