"""Long evaluations can be watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import activity, catalog, record
from runner.progress import Watch
from workloads import progress


def test_what_is_told_stands_in_a_file_until_the_evaluation_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "EVERY", 0.0)
    watch = Watch("t", "adam", tmp_path)
    with activity.shown(tmp_path / record.ASIDE / f"t{activity.SUFFIX}"), progress.on("boolq"):
        progress.tell(3, 10)
        watch.look(pid=0)
        assert "boolq 3/10" in watch.cells()
    watch.look(pid=0)
    assert watch.doing == ""
    assert not list((tmp_path / record.ASIDE).iterdir())


def test_a_short_evaluation_writes_nothing(tmp_path: Path) -> None:
    with activity.shown(tmp_path / record.ASIDE / f"t{activity.SUFFIX}"):
        progress.tell(3, 10)
    assert not list(tmp_path.iterdir())


def test_validation_tells_to_its_last_sequence() -> None:
    workload = catalog.workload("llama_nano", {"validation_tokens": 4096, "batch.micro": 2})
    told: list[str] = []
    with progress.heard(told.append):
        workload.evaluate(workload.build(0, "cpu"), workload.open_data(), "cpu")
    done, total = told[-1].removeprefix("validation ").split("/")
    assert done == total
    assert len(told) > 2
