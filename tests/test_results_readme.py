"""The page on the record format is held to the code that writes it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from runner import record

README = Path(__file__).parents[1] / "results" / "README.md"


def sections() -> dict[str, str]:
    """Text of each section by the kind of line that its heading names."""
    parts = re.split(r"^## `(\w+)`", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def example(kind: str) -> str:
    found = re.search(r"```json\n(.*?)\n```", sections()[kind], flags=re.DOTALL)
    assert found, f"no example line for {kind}"
    return found[1]


def test_every_kind_of_line_has_a_section() -> None:
    assert sections().keys() == record.KINDS.keys()


@pytest.mark.parametrize("kind", record.KINDS)
def test_example_is_a_line_that_the_code_reads_and_would_write(kind: str) -> None:
    line = record.decode(example(kind))
    assert isinstance(line, record.KINDS[kind])
    assert record.encode(line) == example(kind) + "\n"


@pytest.mark.parametrize("kind", record.KINDS)
def test_every_field_is_documented_and_no_other(kind: str) -> None:
    rows = re.findall(r"^\| (`.*?`) \|", sections()[kind], flags=re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    fields = [field.name for field in dataclasses.fields(record.KINDS[kind])]
    assert sorted(documented) == sorted(fields)


@pytest.mark.parametrize("kind", record.KINDS)
def test_example_shows_every_field(kind: str) -> None:
    fields = {field.name for field in dataclasses.fields(record.KINDS[kind])}
    assert json.loads(example(kind)).keys() == fields | {"kind"}


def test_every_status_is_named() -> None:
    text = sections()["end"]
    assert all(f"`{status}`" in text for status in (*record.FINISHED, "preempted"))
