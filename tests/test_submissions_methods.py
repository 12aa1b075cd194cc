"""docs/methods.md lists every submission, with the class, paper and memory that the code declares."""

from __future__ import annotations

from pathlib import Path

from runner import catalog

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| `")]


def test_every_submission_has_one_row_in_order() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(catalog.submission_names())


def test_the_declared_columns_are_those_of_the_code() -> None:
    for name, kind, paper, memory, *_ in ROWS:
        cls = catalog.submission_class(name.strip("`"))
        assert [kind, paper, memory] == [cls.kind, cls.paper, f"`{cls.memory}`"], name


def test_every_row_says_what_it_was_verified_against() -> None:
    for name, *_, verified, traps in ROWS:
        assert verified.startswith("closed form: ") or any(character.isdigit() for character in verified), name
        assert traps, name
