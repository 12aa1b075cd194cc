"""A submission's file that imports modules beside it: they are found, and are part of what it is."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from runner import catalog, check, local, neighbours, record, train
from runner.trial import Trial
from tests import planning

FILE = """
from dataclasses import dataclass

import torch

from submissions.base import MatrixSubmission
{imports}


@dataclass(frozen=True, kw_only=True)
class Mine(MatrixSubmission):
    def init(self, W_bmn):
        return {{}}

    def update(self, G_bmn, state, t):
        {body}
        return direction(G_bmn), {{}}
"""
RULE = "def direction(G_bmn):\n    return G_bmn.sign()\n"
WAYS = {
    "at the top": ("from rule import direction", "pass", ["rule.py"]),
    "inside a function": ("", "from rule import direction", ["rule.py"]),
    "as a whole": ("import rule", "direction = rule.direction", ["rule.py"]),
    "relatively": ("from .rule import direction", "pass", ["rule.py"]),
    "relatively, as a whole": ("from . import rule", "direction = rule.direction", ["rule.py"]),
    "through another": ("from other import direction", "pass", ["other.py", "rule.py"]),
    "from a package": ("from parts.inner import direction", "pass", ["parts/__init__.py", "parts/far.py", "parts/inner.py", "rule.py"]),
    "from a folder": ("import loose.inner", "direction = loose.inner.direction", ["loose/inner.py", "rule.py"]),
}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test imports from its folder, or adds to Python's path, is there in the next."""
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for folder in list(neighbours.ENTERED):
        neighbours.leave(folder)
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec) and any(place.is_relative_to(tmp_path) for place in neighbours.places(spec)):
            del sys.modules[name]


def written(folder: Path, imports: str = "from rule import direction", body: str = "pass") -> Path:
    files = {
        "mine.py": FILE.format(imports=imports, body=body),
        "rule.py": RULE,
        "other.py": "from rule import direction\n",
        "unused.py": "raise RuntimeError\n",
        "parts/__init__.py": "from . import far\n",
        "parts/far.py": "",
        "parts/inner.py": "from rule import direction\n",
        "loose/inner.py": "from rule import direction\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "mine.py"


def planned(path: Path) -> Trial:
    catalog.forget(str(path))
    return check.trial_of(str(path), {})


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_module_makes_another_trial(way: str, tmp_path: Path) -> None:
    imports, body, expected = WAYS[way]
    path = written(tmp_path, imports, body)
    before = planned(path)
    assert list(neighbours.beside(path)) == expected
    submission = catalog.submission_class(str(path))()
    G_bmn = torch.full((1, 2, 3), 5.0)
    assert submission.update(G_bmn, {}, 1)[0].eq(1).all()  # type: ignore[attr-defined]  # the file's class has it
    (tmp_path / "rule.py").write_text(RULE.replace("sign()", "sign() * -2"))
    after = planned(path)
    assert after.id != before.id
    assert after.source_sha256 == catalog.source_sha256(str(path)) != before.source_sha256
    assert catalog.submission_class(str(path))().update(G_bmn, {}, 1)[0].eq(-2).all()  # type: ignore[attr-defined]
    (tmp_path / "unused.py").write_text("# nobody asks for it\n")
    assert planned(path).id == after.id


def test_without_neighbours_nothing_changes(tmp_path: Path) -> None:
    path = written(tmp_path, "from torch import sign as direction\nimport sys, numpy.linalg")
    (tmp_path / "sys.py").write_text("")
    (tmp_path / "numpy").mkdir()
    before = list(sys.path)
    trial = planned(path)
    catalog.submission_class(str(path))
    assert trial.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert catalog.modules(str(path)) == {}
    assert sys.path == before


def test_the_record_names_the_modules(tmp_path: Path) -> None:
    path = written(tmp_path)
    trial = planned(path)
    assert train.execute(trial, tmp_path / "results") == "missed"
    start = next(record.lines(record.path_of(tmp_path / "results" / trial.study, trial.id, 0)))
    assert isinstance(start, record.Start)
    assert start.source["modules"] == {"rule.py": hashlib.sha256(RULE.encode()).hexdigest()}
    assert start.source["sha256"] == trial.source_sha256
    assert start.source["text"] == path.read_text()


def test_a_worker_finds_them_and_sees_a_change(tmp_path: Path) -> None:
    path = written(tmp_path, "", "from rule import direction")
    trial = planned(path)
    [outcome] = local.run_all([trial], tmp_path / "results", quiet=True, threads=1)
    assert outcome.status == "missed", outcome.reason
    (tmp_path / "rule.py").write_text(f"{RULE}# changed\n")
    [outcome] = local.run_all([trial], tmp_path / "results", quiet=True, threads=1, fresh=True)
    assert "has changed since this trial was planned" in str(outcome.reason)
    assert outcome.status == "failed"


def test_files_of_one_name_in_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    one, other, lone = (written(tmp_path / name) for name in ("one", "other", "lone"))
    other.with_name("rule.py").write_text(RULE.replace("sign()", "neg()"))
    lone.with_name("rule.py").unlink()
    relative = written(tmp_path / "relative", "from .rule import direction")
    relative.with_name("rule.py").write_text(RULE.replace("sign()", "neg()"))
    G_bmn = torch.full((1, 2, 3), 5.0)
    rules = [catalog.submission_class(str(path))() for path in (one, other, relative)]
    assert [rule.update(G_bmn, {}, 1)[0].mean().item() for rule in rules] == [1, -5, -5]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="No module named 'rule'"):
        catalog.submission_class(str(lone))


def test_a_file_may_bear_the_name_of_what_it_wraps(tmp_path: Path) -> None:
    path = written(tmp_path, "from fira import FiraAdamW\nfrom rule import direction")
    same = path.rename(path.with_name("fira.py"))
    assert catalog.submission_class(str(same)).__name__ == "Mine"
    assert list(catalog.modules(str(same))) == ["rule.py"]


def test_a_module_comes_before_a_folder_of_its_name_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first" / "rule").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "first")
    path = written(tmp_path / "home")
    assert catalog.submission_class(str(path)).__name__ == "Mine"
    assert list(catalog.modules(str(path))) == ["rule.py"]


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        (
            "from gone import direction",
            "line 7: ModuleNotFoundError: No module named 'gone'; expected it installed, or beside the file",
        ),
        ("from ..rule import direction", "mine.py, line 7: ImportError: attempted relative import beyond top-level package"),
        ("import broken", "mine.py, line 7: SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_told_with_its_line(imports: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, imports)
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        catalog.submission_class(str(path))


def test_a_workload_s_modules_are_part_of_it_too(tmp_path: Path) -> None:
    planning.files(tmp_path)
    path = tmp_path / "paper.py"
    name = f"{path}:small"
    alone = catalog.workload_source_sha256(name)
    assert alone == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(f"import sizes\n{planning.WORKLOAD}")
    seen = []
    for text in ("", "# changed\n"):
        (tmp_path / "sizes.py").write_text(text)
        catalog.forget(str(path))
        seen.append(catalog.workload_source_sha256(name))
    assert len({alone, *seen}) == 3
