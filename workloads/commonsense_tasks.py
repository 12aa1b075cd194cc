"""The eight commonsense tasks in the layout of LLM-Adapters: what a task file holds, how an example reads, and what may be answered.

Hu et al. 2023, arXiv 2304.01933. A folder per task with `train.json` and `test.json`, each a list of objects with `instruction`, `output`
and `answer`; all training examples together are `commonsense_170k.json`. Importing this module does not load torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workloads.text import sound

TASKS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
"""In the order of the published tables."""
MIXTURE = "commonsense_170k.json"
FIELDS = ("instruction", "output", "answer")
ANSWERS = {"boolq": r"true|false", "piqa": r"solution\d", "winogrande": r"option\d", "hellaswag": r"ending\d"}
"""What an answer of a task looks like; `answer\\d` for the others."""
LEAD = "the correct answer is "
"""How every output begins; the option follows."""

Template = Literal["alpaca", "plain"]
TEMPLATES: dict[Template, str] = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
        "### Instruction:\n{instruction}\n\n### Response:\n"
    ),
    "plain": "{instruction}\n\n",
}
"""`alpaca` is the text of the published runs (its blank before the line break too); `plain` spares a small model its 150 bytes."""


@dataclass(frozen=True)
class Example:
    """One question."""

    instruction: str
    output: str
    answer: str
    options: tuple[str, ...] = ()
    """What may be answered; empty in training examples, which only need their output."""

    def prompt(self, template: Template) -> str:
        return TEMPLATES[template].format(instruction=self.instruction)


def read_test(path: Path, task: str) -> list[Example]:
    """The questions of a test file, each with its options.

    Raises:
        ValueError: an entry lacks a field, names no options, or has an answer outside of them; the message says which.
    """
    return [_question(entry, task, f"{path}, entry {number}") for number, entry in enumerate(_entries(path), start=1)]


def read_train(path: Path) -> list[Example]:
    """The examples of a training file, of one task or of all.

    Raises:
        ValueError: an entry lacks a field, or its output does not state its answer.
    """
    found = []
    for number, entry in enumerate(_entries(path), start=1):
        if entry["answer"].strip() not in entry["output"]:
            raise ValueError(
                f"{path}, entry {number}: the output {_short(entry['output'])} does not state the answer {_short(entry['answer'])}; "
                "correct the entry or leave it out"
            )
        found.append(Example(_instruction(entry), entry["output"], entry["answer"].strip()))
    return found


def options_of(instruction: str, task: str) -> tuple[str, ...]:
    """The options that a question names after `Answer format:`, or, where it has no such line, those it numbers."""
    _, found, listed = instruction.rpartition("Answer format:")
    pattern = re.compile(ANSWERS.get(task, r"answer\d"), re.IGNORECASE)
    matches = pattern.findall(listed if found else instruction)
    return tuple(dict.fromkeys(match.lower() for match in matches))


def first_option(text: str, options: tuple[str, ...]) -> str | None:
    """The published parser: the option that stands first in a generated text; None if there is none."""
    found = re.search("|".join(map(re.escape, sorted(options, key=len, reverse=True))), text)
    return found.group() if found else None


def _question(entry: dict[str, str], task: str, where: str) -> Example:
    instruction, answer = _instruction(entry), entry["answer"].strip()
    options = options_of(instruction, task)
    if len(options) < 2:
        raise ValueError(f"{where}: no options in the instruction; expected a line such as `Answer format: answer1/answer2` at its end")
    if answer not in options:
        raise ValueError(
            f"{where}: answer {_short(answer)} is not among the options {', '.join(options)}; correct the entry or leave it out"
        )
    return Example(instruction, entry["output"], answer, options)


def _instruction(entry: dict[str, str]) -> str:
    """With its `input`, if there is any: the published files leave it empty."""
    return f"{entry['instruction']}\n\n{entry['input']}" if entry.get("input") else entry["instruction"]


def _entries(path: Path) -> list[dict[str, str]]:
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise ValueError(f"{path} is missing: expected a task file of LLM-Adapters") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of objects with {', '.join(FIELDS)}, got {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        missing = [field for field in FIELDS if not isinstance(entry, dict) or not isinstance(entry.get(field), str)]
        if missing:
            raise ValueError(f"{path}, entry {number}: no text in {', '.join(missing)}; expected an object with {', '.join(FIELDS)}")
    return [{key: sound(value) for key, value in entry.items() if isinstance(value, str)} for entry in entries]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
