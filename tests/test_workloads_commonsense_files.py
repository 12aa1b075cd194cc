from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runner import cli
from tests.commonsense import REAL, boolean, choice, needs_files, write_tasks
from workloads import commonsense_files, commonsense_tasks


@needs_files
def test_the_real_files_read_whole_and_their_mixture_is_the_tasks_own_training_files(tmp_path: Path) -> None:
    index = commonsense_files.prepare(REAL, tmp_path / "out")
    assert {task: file.examples for task, file in index.test.items()} == {
        "boolq": 3270,
        "piqa": 1838,
        "social_i_qa": 1954,
        "winogrande": 1267,
        "ARC-Easy": 2376,
        "ARC-Challenge": 1172,
        "openbookqa": 500,
    }
    assert index.missing == ["hellaswag"]
    assert [(file.path, file.examples) for file in index.train] == [
        ("boolq/train.json", 9427),
        ("ARC-Easy/train.json", 2251),
        ("ARC-Challenge/train.json", 1119),
        ("openbookqa/train.json", 4957),
    ]
    assert commonsense_files.read_index(tmp_path / "out") == index
    counts = {
        task: {len(example.options) for example in commonsense_files.test_examples(tmp_path / "out", index, task)} for task in index.test
    }
    assert counts["ARC-Easy"] == {3, 4, 5}
    assert (counts["boolq"], counts["piqa"], counts["winogrande"], counts["social_i_qa"]) == ({2}, {2}, {2}, {3})


def test_the_170k_file_is_taken_where_it_is_present_in_either_place(tmp_path: Path) -> None:
    source = write_tasks(tmp_path / "source" / "dataset").parent
    (source / "ft-training_set").mkdir()
    (source / "ft-training_set" / "commonsense_170k.json").write_text(json.dumps([boolean(number) for number in range(7)]))
    index = commonsense_files.prepare(source, tmp_path / "out")
    assert [(file.path, file.examples) for file in index.train] == [("commonsense_170k.json", 7)]
    assert len(commonsense_files.train_examples(tmp_path / "out", index)) == 7


def test_the_hash_follows_the_text_and_a_changed_copy_is_refused(tmp_path: Path) -> None:
    first = commonsense_files.prepare(write_tasks(tmp_path / "a"), tmp_path / "x")
    again = commonsense_files.prepare(write_tasks(tmp_path / "b"), tmp_path / "y")
    other = commonsense_files.prepare(write_tasks(tmp_path / "c", train=21), tmp_path / "z")
    assert first.sha256 == again.sha256 != other.sha256
    (tmp_path / "x" / "boolq" / "test.json").write_text(json.dumps([boolean(1)]))
    with pytest.raises(ValueError, match=r"boolq/test\.json is missing or was changed: delete"):
        commonsense_files.verify(tmp_path / "x", first)
    text = (tmp_path / "y" / "tasks.json").read_text()
    (tmp_path / "y" / "tasks.json").write_text(text.replace('"examples": 20', '"examples": 30'))
    with pytest.raises(ValueError, match="was changed after it was written"):
        commonsense_files.read_index(tmp_path / "y")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [{"instruction": "q", "output": "the correct answer is true"}],
            r"entry 1: no text in answer; expected an object with instruction",
        ),
        ([boolean(0), {**boolean(1), "answer": "maybe"}], r"entry 2: answer 'maybe' is not among the options true, false"),
        (
            [{**boolean(0), "instruction": "no options here"}],
            "entry 1: no options in the instruction; expected a line such as `Answer format",
        ),
        ({"data": []}, "expected a list of objects with instruction, output, answer, got dict"),
        ([], "expected a list of objects"),
        (["text"], "entry 1: no text in instruction, output, answer"),
    ],
)
def test_a_damaged_test_file_is_named_with_the_entry(tmp_path: Path, entries: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        commonsense_files.prepare(write_tasks(tmp_path / "source", boolq_test=entries), tmp_path / "out")
    assert not (tmp_path / "out" / "tasks.json").exists()


def test_a_damaged_file_leaves_what_was_prepared_before_as_it_is(tmp_path: Path) -> None:
    whole = commonsense_files.prepare(write_tasks(tmp_path / "source"), tmp_path / "out")
    with pytest.raises(ValueError, match="entry 1: no text in"):
        commonsense_files.prepare(write_tasks(tmp_path / "other", train=21, boolq_test=["text"]), tmp_path / "out")
    commonsense_files.verify(tmp_path / "out", whole)
    assert commonsense_files.read_index(tmp_path / "out") == whole


def test_half_a_character_in_a_task_file_becomes_the_sign_for_one(tmp_path: Path) -> None:
    entry = {**boolean(1), "instruction": "\ud800 " + boolean(1)["instruction"], "input": "\udfff"}
    source = write_tasks(tmp_path / "source", boolq_test=[entry], boolq_train=[entry])
    (source / "boolq" / "test.json").write_bytes(b"\xef\xbb\xbf" + (source / "boolq" / "test.json").read_bytes())
    index = commonsense_files.prepare(source, tmp_path / "out")
    examples = commonsense_files.test_examples(tmp_path / "out", index, "boolq") + commonsense_files.train_examples(tmp_path / "out", index)
    assert all(example.instruction.encode() for example in examples)
    assert examples[0].instruction.startswith("\ufffd is 1")
    assert examples[0].instruction.endswith("\n\n\ufffd")


def test_a_training_output_must_state_its_answer(tmp_path: Path) -> None:
    entries = [boolean(1), {**boolean(2), "output": "I do not know"}]
    with pytest.raises(ValueError, match=r"train\.json, entry 2: the output 'I do not know' does not state the answer 'true'"):
        commonsense_files.prepare(write_tasks(tmp_path / "source", boolq_train=entries), tmp_path / "out")


def test_empty_folders_and_broken_json_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tests in .*: expected folders such as"):
        commonsense_files.prepare(tmp_path, tmp_path / "out")
    source = write_tasks(tmp_path / "source")
    for broken in ("[{", 100_000 * "["):
        (source / "boolq" / "test.json").write_text(broken)
        with pytest.raises(ValueError, match=r"boolq/test\.json is not JSON"):
            commonsense_files.prepare(source, tmp_path / "out")
    for task in ("boolq", "ARC-Easy"):
        (source / task / "train.json").unlink()
    with pytest.raises(ValueError, match=r"--source nobody/nothing: no such folder, and no data set of the Hugging Face hub"):
        commonsense_files.fetch("nobody/nothing")
    with pytest.raises(ValueError, match=r"nothing to train on in .*: expected commonsense_170k\.json"):
        commonsense_files.prepare(source, tmp_path / "out")


def test_the_published_prompt_is_word_for_word_the_protocols() -> None:
    example = commonsense_tasks.Example("Say true.", "the correct answer is true", "true")
    assert example.prompt("alpaca") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
        "### Instruction:\nSay true.\n\n### Response:\n"
    )
    assert example.prompt("plain") == "Say true.\n\n"


def test_the_first_option_in_a_text_is_its_answer() -> None:
    options = ("answer1", "answer2", "answer11")
    assert commonsense_tasks.first_option("it is answer2, not answer1", options) == "answer2"
    assert commonsense_tasks.first_option("answer11", options) == "answer11"
    assert commonsense_tasks.first_option("the correct one", options) is None


def test_options_come_from_the_format_line_or_from_the_numbered_list() -> None:
    assert commonsense_tasks.options_of(choice(0)["instruction"], "ARC-Easy") == ("answer1", "answer2", "answer3")
    assert commonsense_tasks.options_of("Ending1: a Ending2: b", "hellaswag") == ("ending1", "ending2")


def test_the_command_prepares_lists_what_is_missing_and_asks_for_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path / "prepared"))
    assert cli.main(["data", "prepare", "commonsense", "--source", str(write_tasks(tmp_path / "source"))]) == 0
    out = capsys.readouterr().out
    assert "training: 40 examples of boolq/train.json, ARC-Easy/train.json" in out
    assert "missing: piqa, social_i_qa, hellaswag, winogrande, ARC-Challenge, openbookqa; averages leave them out" in out
    assert commonsense_files.find("commonsense") == tmp_path / "prepared" / "commonsense"
    assert cli.main(["data", "list"]) == 0
    assert re.search(r"commonsense +any +questions +40 examples +24 examples", capsys.readouterr().out)
    assert cli.main(["data", "verify", "commonsense"]) == 0
    assert "4 task files are as they were prepared" in capsys.readouterr().out
    (tmp_path / "prepared" / "commonsense" / "boolq" / "test.json").write_text("[]")
    assert cli.main(["data", "verify", "commonsense"]) == 2
    assert "boolq/test.json is missing or was changed" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "commonsense"]) == 2
    assert "expected --source DIR" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"commonsense data 'other' are not prepared.*slimperf data prepare commonsense --source DIR --name other"
    ):
        commonsense_files.find("other")
