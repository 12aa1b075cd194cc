"""Data that changed behind their name: no trial goes on with them, none counts as finished on them, and targets say so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from corpora import documents, job, own_folders, write_jsonl  # noqa: F401  # a fixture that acts by itself
from kills import story

from runner import checkpoint, cli, launch, local, record, same_data, slurm, study, train
from runner.trial import Trial
from tests import fake_records
from workloads import preparation, prepared

TINY = {"data": "mine", "steps": 12, "evaluate_every": 4, "batch.sequences": 2, "batch.length": 16, "validation_tokens": 128}
TINY |= {"model.hidden": 16, "model.mlp": 24, "model.layers": 1, "model.heads": 2}
TEXTS = documents(900)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return prepare(tmp_path, TEXTS)


def prepare(tmp_path: Path, texts: list[str]) -> Path:
    """Data called `mine`, in place of those that were there."""
    out = tmp_path / "data" / "mine"
    shutil.rmtree(out, ignore_errors=True)
    list(preparation.prepare(job(write_jsonl(tmp_path / "text.jsonl", texts)), out))
    return out


def sha256(data: Path) -> str:
    return str(prepared.open_tokens(str(data), length=16).identity()["sha256"])


def trial(**changes: object) -> Trial:
    chosen = {"workload": "llama_nano", "overrides": TINY, "stop": "budget", "seeds": [0], **changes}
    [found] = study.trials({**chosen, "study": "s", "trials": [{"submission": "adam"}]}, folder=Path.cwd())
    return found


def stopped_after(step: int, results: Path) -> str:
    asked = iter([False] * (step - 1) + [True])
    return train.execute(trial(), results, interrupted=lambda: next(asked))


def words(results: Path, *more: str) -> list[str]:
    changes = [f"{name}={value}" for name, value in TINY.items()]
    asked = ["run", "adam", "--workload", "llama_nano", "--stop", "budget", "--study", "s", "--results", str(results), "--quiet"]
    return [*asked, *more, "--override", *changes]


def finish(results: Path, status: record.Status, sha: str) -> Path:
    """A record of the trial on data of this hash."""
    path = record.path_of(results / "s", trial().id, 0)
    writer = record.Writer(path)
    start = dataclasses.replace(fake_records.start(trial()), data={"name": "mine", "sha256": sha})
    writer.write(start, record.End(status=status, step=20, seconds={"total": 2.0}, bytes={}))
    writer.close()
    return path


def test_a_checkpoint_waits_for_its_own_data(tmp_path: Path, data: Path) -> None:
    assert train.execute(trial(), tmp_path / "whole") == "missed"
    results = tmp_path / "results"
    assert stopped_after(7, results) == "preempted"
    was = sha256(data)
    now = sha256(prepare(tmp_path, TEXTS[:800]))
    assert train.execute(trial(), results) == "preempted"
    _, second = record.attempts(results / "s", trial().id)
    start, end = record.lines(second)
    assert isinstance(end, record.End)
    path = checkpoint.path_of(results / "s", trial())
    assert str(end.reason).startswith(f"{path}, of step 7, was made on other data: data mine (sha256 {was[:12]} then, {now[:12]} now)")
    assert isinstance(start, record.Start)
    assert (start.resumed_step, start.data) == (7, {"sha256": was})
    assert start.budget["steps"] == 12
    prepare(tmp_path, TEXTS)
    assert train.execute(trial(), results) == "missed"
    assert story(results / "s", trial().id) == story(tmp_path / "whole" / "s", trial().id)


def test_without_its_checkpoint_a_trial_starts_on_the_new_data(tmp_path: Path, data: Path) -> None:
    stopped_after(7, tmp_path)
    now = sha256(prepare(tmp_path, TEXTS[:800]))
    with pytest.raises(ValueError, match="was made on other data"):
        same_data.check([trial()], tmp_path, same_data.identities([trial()]))
    checkpoint.remove(checkpoint.path_of(tmp_path / "s", trial()))
    same_data.check([trial()], tmp_path, same_data.identities([trial()]))
    assert train.execute(trial(), tmp_path) == "missed"
    assert same_data.recorded(tmp_path / "s", trial().id)["sha256"] == now


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_a_trial_on_other_data_does_not_count_as_finished(
    tmp_path: Path, data: Path, executor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "run_all", lambda *_, **__: pytest.fail("trials run"))
    monkeypatch.setattr(slurm, "submit", lambda *_, **__: pytest.fail("trials are submitted"))
    path = finish(tmp_path, "reached", "ab" * 32)
    assert cli.main(words(tmp_path, "--executor", executor)) == 2
    error = capsys.readouterr().err
    assert error == (
        f"slimperf: error: trial {trial().id} (adam seed 0) in {tmp_path / 's'} was made on other data: "
        f"data mine (sha256 abababababab then, {sha256(data)[:12]} now); "
        "restore them, or give another --results folder to run everything anew\n"
    )
    assert [file.name for file in (tmp_path / "s").iterdir()] == [path.name]


def test_a_trial_on_the_same_data_is_finished(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path, "reached", sha256(data))
    assert cli.main(words(tmp_path)) == 0
    assert "1 reached" in capsys.readouterr().out
    assert len(record.attempts(tmp_path / "s", trial().id)) == 1


def test_a_trial_is_retried_on_the_data_that_are_there(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path, "failed", "ab" * 32)
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    assert cli.main(["retry", str(tmp_path / "s"), "--quiet"]) == 0
    assert len(record.attempts(tmp_path / "s", trial().id)) == 2


def test_another_checkpoint_of_the_same_name_is_other_data() -> None:
    was = {"name": "commonsense", "sha256": "aa" * 32, "checkpoint": "base", "checkpoint_sha256": "bb" * 32}
    assert same_data.difference(was, {**was, "name": "moved"}) is None
    assert same_data.difference({}, was) is None
    assert same_data.difference({**was, "sha256": None}, was) is None
    changed = {**was, "checkpoint_sha256": "cc" * 32}
    assert same_data.difference(was, changed) == "checkpoint base (sha256 bbbbbbbbbbbb then, cccccccccccc now)"


def test_data_are_opened_once_per_workload(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = prepared.open_tokens
    monkeypatch.setattr(prepared, "open_tokens", lambda *args, **options: opened.append(args) or original(*args, **options))
    trials = [dataclasses.replace(trial(), submission=name, seed=seed) for name in ("adam", "fira", "lion") for seed in range(50)]
    same_data.check(trials, tmp_path, same_data.identities(trials))
    assert len(opened) == 1


@pytest.fixture
def elsewhere(tmp_path: Path, data: Path) -> str:
    """A workload of a user's file, with a target that was set on other data."""
    file = tmp_path / "mine.py"
    changes = {"name": "small", "data": "mine", "evaluate_every": 4, "validation_tokens": 128}
    file.write_text(
        "from dataclasses import replace\n"
        "from workloads.base import Batch, Target\n"
        "from workloads.pretraining import WORKLOADS as OURS\n"
        'target = Target(metric="val_loss", value=9.0, source="baseline adam; data_sha256 abababababababab; python 3.10.1")\n'
        f"WORKLOADS = (replace(OURS[0], batch=Batch(sequences=2, length=16), target=target, **{changes!r}),)\n"
    )
    return f"{file}:small"


def test_jobs_on_other_machines_need_no_data_here(tmp_path: Path, data: Path) -> None:
    chosen = trial()
    shutil.rmtree(data)
    with pytest.raises(ValueError, match="mine"):
        same_data.identities([chosen])
    assert same_data.identities([chosen], elsewhere=True) == {}
    same_data.check([chosen], tmp_path, {})


def test_a_target_that_was_set_on_other_data_is_said_once(
    tmp_path: Path, elsewhere: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"warning: the target of small was set on other data (sha256 abababababab of Python 3.10.1) than these ({sha256(data)[:12]}): "
    document = tmp_path / "s.yaml"
    document.write_text(json.dumps({"workload": elsewhere, "seeds": [0, 6], "trials": [{"submission": "adam"}, {"submission": "lion"}]}))
    assert cli.main(["plan", str(document)]) == 0
    assert capsys.readouterr().err.count(line) == 1
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    launch.warn.cache_clear()
    for _ in range(2):
        assert cli.main(["sweep", str(document), "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count(line) == 1


def test_a_plan_needs_no_data(tmp_path: Path, elsewhere: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data)
    document = tmp_path / "s.yaml"
    document.write_text(json.dumps({"workload": elsewhere, "trials": [{"submission": "adam"}]}))
    assert cli.main(["plan", str(document)]) == 0
    assert capsys.readouterr().err == ""


def test_the_record_tells_that_the_target_was_set_on_other_data(tmp_path: Path, elsewhere: str) -> None:
    chosen = trial(workload=elsewhere, overrides={}, stop="target")
    assert train.execute(chosen, tmp_path) == "reached"
    start = next(record.lines(record.path_of(tmp_path / "s", chosen.id, 0)))
    assert isinstance(start, record.Start)
    assert start.target is not None
    assert start.target["provisional"]
    assert "python 3.10.1; set on other data (sha256 abababababab" in start.target["source"]
