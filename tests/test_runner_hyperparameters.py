"""What can be a hyperparameter of a user's submission: it comes back from YAML and JSON as itself; all else is refused in one line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import arguments, catalog, check, fields, hyperparameters
from runner.trial import Trial
from submissions.base import Submission

FILE = """
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch

from submissions.base import MatrixSubmission


class Mode(enum.Enum):
    SIGN = "sgn"
    RAW = "raw"


class Kind(enum.StrEnum):
    A = "a"
    B = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    a: float = 1.0
    mode: Mode = Mode.RAW


class Knobs(enum.Flag):
    ONE = 1
    TWO = 2


@dataclass(frozen=True)
class Inner:
    x: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Mine(MatrixSubmission):
    value: {type} = {default}

    def init(self, W_bmn):
        return {{}}

    def update(self, G_bmn, state, t):
        return G_bmn.sign(), {{}}
"""


LINE = FILE.partition("class Mine")[0].count("\n")


def mine(folder: Path, type_: str, default: str) -> type[Submission]:
    path = folder / "mine.py"
    path.write_text(FILE.format(type=type_, default=default))
    catalog.forget(str(path))
    return catalog.submission_class(str(path))


def given(cls: type[Submission], text: str) -> Any:
    """The value of `--set value=TEXT`, as a record keeps it and as the submission has it."""
    found = hyperparameters.resolve(cls, arguments.assignments("--set", [f"value={text}"]))
    return hyperparameters.values(found)["value"], getattr(found, "value")  # noqa: B009  # a field of the file


KEPT = {
    "Mode": ("Mode.SIGN", "raw", "raw", "Mode.RAW"),
    "Kind": ("Kind.A", "b", "b", "Kind.B"),
    "Level": ("Level.LOW", "2", 2, "Level.HIGH"),
    "Mode | None": ("None", "RAW", "raw", "Mode.RAW"),
    "Pair": ("Pair()", "[2, sgn]", [2.0, "sgn"], "Pair(2.0, Mode.SIGN)"),
    "tuple": ("(1, (0.5, 'k'), None)", "[1, [2]]", [1, [2]], "(1, (2,))"),
    "list": ("field(default_factory=lambda: [1, [2]])", "[a]", ["a"], "['a']"),
    "tuple[tuple[float, float], ...]": ("((0.1, 0.2),)", "[[1, 2], [3, 4]]", [[1.0, 2.0], [3.0, 4.0]], "((1.0, 2.0), (3.0, 4.0))"),
    "tuple[Mode, ...]": ("(Mode.RAW,)", "[SIGN, raw]", ["sgn", "raw"], "(Mode.SIGN, Mode.RAW)"),
    "tuple[float, str]": ("(0.5, 'k')", "[1, a]", [1.0, "a"], "(1.0, 'a')"),
    "Sequence[float]": ("(1.0,)", "[2, 3]", [2.0, 3.0], "(2.0, 3.0)"),
    "dict[str, float]": ("field(default_factory=dict)", "{a: 1}", {"a": 1.0}, "{'a': 1.0}"),
    "Annotated[float, 'positive']": ("1.0", "2", 2.0, "2.0"),
    "float": ("math.inf", "inf", math.inf, "math.inf"),
    "Literal['a', 3]": ("'a'", "3", 3, "3"),
}


@pytest.mark.parametrize("type_", KEPT)
def test_a_value_is_recorded_plainly_and_comes_back_as_itself(type_: str, tmp_path: Path) -> None:
    default, text, recorded, meant = KEPT[type_]
    cls = mine(tmp_path, type_, default)
    names = vars(catalog.sources.load(tmp_path / "mine.py"))
    assert given(cls, text) == (recorded, eval(meant, names))
    for values in (hyperparameters.values(cls()), {"value": recorded}):
        for text_ in (json.dumps(values), yaml.safe_dump(values)):
            again = hyperparameters.resolve(cls, yaml.safe_load(text_) if text_[0] != "{" else json.loads(text_))
            assert hyperparameters.values(again)["value"] == values["value"]
    whole = Trial.from_json(check.trial_of(str(tmp_path / "mine.py"), {}).to_json())
    assert hyperparameters.resolve(cls, whole.hyperparameters) == cls()


@pytest.mark.parametrize(
    ("type_", "default", "text", "message"),
    [
        ("Mode", "Mode.RAW", "sng", "value = 'sng': expected one of sgn, raw; did you mean 'sgn'?"),
        ("Mode", "Mode.RAW", "on", "value = True: expected one of sgn, raw; YAML reads bare on, off"),
        ("Level", "Level.LOW", "3", "value = 3: expected one of 1 (LOW), 2 (HIGH)"),
        ("Pair", "Pair()", "[1, 2, 3]", "expected 2 values, got 3"),
        ("Pair", "Pair()", "7", "value = 7: expected a list of 2 (a number, one of sgn, raw)"),
        ("tuple", "()", "7", "value = 7: expected a list"),
        ("tuple[float, str]", "(0.5, 'k')", "7", "expected a list of 2 (a number, text)"),
        ("Sequence[float]", "(1.0,)", "abc", "value = 'abc': expected a list (each: a number)"),
        ("float", "1.0", "inf", "Mine: value = inf: expected finite numbers"),
        ("float | None", "None", ".nan", "Mine: value = nan: expected finite numbers"),
        ("tuple[float, float]", "(0.9, 0.999)", "[0.9, .inf]", "expected finite numbers"),
        ("float", "math.inf", "nan", "Mine: value = nan: expected finite numbers"),
    ],
)
def test_a_wrong_value_is_told_what_there_is(type_: str, default: str, text: str, message: str, tmp_path: Path) -> None:
    cls = mine(tmp_path, type_, default)
    with pytest.raises(ValueError, match=re.escape(message)):
        given(cls, text)


REFUSED = {
    "frozenset[str]": ("frozenset()", None),
    "torch.dtype": ("torch.float32", None),
    "Inner": ("Inner()", None),
    "Knobs": ("Knobs.ONE", None),
    "Path": ("Path('a')", None),
    "object": ("1", None),
    "Any": ("1", None),
    "tuple[torch.dtype, ...]": ("()", None),
    "dict[int, float]": ("field(default_factory=dict)", None),
    "'Undefined'": ("1", "its type cannot be resolved: name 'Undefined' is not defined"),
    "'torch.flot32'": ("1", "its type cannot be resolved: module 'torch' has no attribute 'flot32'"),
    "float": ("torch.ones(2, 2)", "its default is not of its type: value = tensor([[1., 1.], [1., 1.]]): expected a number"),
    "int": ("True", "its default is not of its type: value = True: expected a whole number"),
    "float | None": ("math.nan", "its default nan comes back from YAML as nan; expected the same"),
    "Sequence[float]": ("field(default_factory=lambda: [1.0])", "its default [1.0] comes back from YAML as (1.0,)"),
}


@pytest.mark.parametrize("type_", REFUSED)
def test_a_file_with_another_type_is_refused_in_one_line(type_: str, tmp_path: Path) -> None:
    default, message = REFUSED[type_]
    shown = "pathlib.Path" if type_ == "Path" else type_
    message = (
        message
        or f"type {shown} cannot be a hyperparameter; use bool, int, float, str, Literal, Enum, tuples, lists or dicts of those, or None"
    )
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        mine(tmp_path, type_, default)
    assert str(error.value).startswith(f"{tmp_path / 'mine.py'}, line {LINE}: field value of class Mine: ")
    assert "\n" not in str(error.value)


def test_what_a_range_check_raises_is_told_with_its_line(tmp_path: Path) -> None:
    cls = mine(tmp_path, "float", "1.0\n\n    def __post_init__(self):\n        {}[self.value]")
    with pytest.raises(ValueError, match=rf"^Mine: KeyError: 1\.0 \(mine\.py:{LINE + 5}\)$"):
        hyperparameters.resolve(cls, {})


def test_every_type_of_our_own_can_be_described() -> None:
    for name in catalog.submission_names():
        for field, kind in fields.types_of(catalog.submission_class(name)).items():
            assert fields.storable(kind), field
            assert fields.describe(kind)
