"""The command line: what a person types, what it prints, and how it exits."""

from __future__ import annotations

import dataclasses
import importlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import cli, launch, local, progress, record, status
from runner.commands import retry
from tests import fake_records, planning


def typed(*words: str) -> int:
    return cli.main(words)


def test_help_lists_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    code = "import sys; from runner import cli; cli.main(['--help']); print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", ["run", "sweep", "plan", "status", "list", "show", "check", "new", "retry", "cancel", "logs", "tune"])
def test_every_command_describes_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        typed(name, "--help")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert str(importlib.import_module(f"runner.commands.{name}").__doc__).splitlines()[0] in text


def test_an_unknown_command_is_an_input_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("swep") == 2
    assert capsys.readouterr().err == "slimperf: error: unknown command 'swep'; did you mean 'sweep'? (see `slimperf --help`)\n"


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed() == 2
    assert "usage: slimperf COMMAND" in capsys.readouterr().out


def test_debugging_shows_where_an_input_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMPERF_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown command"):
        typed("swep")


def test_a_stray_file_with_the_name_of_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "workloads.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from runner import cli; sys.exit(cli.main(['list', 'studies']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path / 'workloads.py'} is in the way" in done.stderr


WRONG = {
    ("run", "galor", "--workload", "llama_nano"): "did you mean 'galore'?",
    ("run", "adam", "--workload", "lama_nano"): "did you mean 'llama_nano'?",
    ("run", "adam", "--workload", "llama_nano", "--set", "lrr=1"): "did you mean 'lr'?",
    ("run", "adam", "--workload", "llama_nano", "--set", "lr"): "--set lr: expected NAME=VALUE",
    ("run", "adam", "--workload", "llama_nano", "--set", "lr=-1"): "lr = -1.0: expected a positive number",
    ("run", "adam", "--workload", "llama_nano", "--workers", "0"): "--workers 0: expected at least 1",
    ("run", "adam", "--workload", "llama_nano", "--device", "gpu"): "--device gpu: expected cpu, cuda or cuda:N",
    ("run", "adam", "--workload", "llama_nano", "--data", "nowhere"): "nowhere",
    ("run", "galore", "--workload", "llama_nano", "--set", "rank=4096"): "rank",
    ("sweep", "nothing.yaml"): "nothing.yaml: there is no such file",
    ("status", "nowhere"): "nowhere: expected a folder with records",
    ("show", "fria"): "did you mean 'fira'?",
    ("check", "gone.py"): "gone.py: cannot be read",
    ("tune", "adam", "--workload", "llama_nano", "--space", "lr=1"): "--space lr=1: expected NAME=KIND:LOW:HIGH",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_bad_input_is_one_line_and_exit_code_2(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("slimperf: error: ")
    assert error.count("\n") == 1
    assert WRONG[words] in error
    assert list(tmp_path.iterdir()) == []


def test_new_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_optimizer.py"
    assert typed("new", str(file)) == 0
    code = file.read_text()
    assert "class MyOptimizer(MatrixSubmission)" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    file.write_text("mine")
    assert typed("new", str(file)) == 2
    assert "--force to overwrite" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert typed("new", str(file), "--force") == 0
    assert file.read_text() == code
    assert typed("new", str(tmp_path / "my optimizer.txt")) == 2


def test_plan_prints_a_line_per_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("workload: llama_nano\nseeds: [0, 1]\ntrials: [{submission: galore, sweep: {rank: [4, 16]}}]")
    assert typed("plan", "s.yaml") == 0
    text = capsys.readouterr().out
    assert [line.split()[:3] for line in text.splitlines()[1:3]] == [
        ["llama_nano", "galore", "rank=4"],
        ["llama_nano", "galore", "rank=16"],
    ]
    assert "4 trials, 4 to run" in text
    assert not (tmp_path / "results").exists()


def test_run_plans_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    words = ("run", "adam", "--workload", "llama_nano", "--seeds", "0", "3", "--set", "lr=5e-3", "--results", str(tmp_path), "--quiet")
    assert typed(*words) == 1
    text = capsys.readouterr().out
    assert "1 failed, 1 reached" in text
    assert "adam seed 3" in text
    [reached] = [row for row in status.scan(tmp_path / "run") if row.status == "reached"]
    assert reached.hyperparameters["lr"] == 5e-3
    assert typed("status", str(tmp_path)) == 0
    assert "1 failed, 1 reached" in capsys.readouterr().out
    assert typed("status", str(tmp_path), "--all") == 0
    assert reached.trial in capsys.readouterr().out


def test_logs_show_what_a_failed_worker_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    local.run_all([planning.trial(3)], tmp_path, quiet=True)
    assert typed("logs", str(tmp_path), planning.trial(3).id[:6]) == 0
    assert "Segmentation fault in a library" in capsys.readouterr().out
    assert typed("logs", str(tmp_path), "ffffffffffffff") == 2


def test_cancel_without_anything_running_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    local.run_all([planning.trial(0)], tmp_path, quiet=True)
    assert typed("cancel", str(tmp_path)) == 0
    assert "nothing is running" in capsys.readouterr().out


def test_retry_rebuilds_the_trial_from_its_record_alone(tmp_path: Path) -> None:
    from runner import study

    planning.files(tmp_path)
    document = {
        "study": "s",
        "workload": "./paper.py:small",
        "overrides": {"steps": 7},
        "trials": [{"submission": "./idea.py", "set": {"betas": [0.8, 0.9]}}],
    }
    [trial] = study.trials(document, folder=tmp_path)
    fake_records.write(tmp_path, trial, "failed")
    [row] = status.scan(tmp_path / "s")
    assert retry.trial_of(row) == trial
    (tmp_path / "idea.py").write_text((tmp_path / "idea.py").read_text() + "\n# changed\n")
    from runner import catalog

    catalog.forget(str(tmp_path / "idea.py"))
    with pytest.raises(ValueError, match="has changed since"):
        retry.trial_of(row)


def test_a_watch_reads_only_what_was_added(tmp_path: Path) -> None:
    trial = planning.trial()
    path = record.path_of(tmp_path / "s", trial.id, 0)
    writer = record.Writer(path)
    writer.write(fake_records.start(trial))
    watch = progress.Watch(trial.id, "idea seed 0", tmp_path / "s")
    watch.look(0)
    assert (watch.steps, watch.step) == (100, 0)
    assert math.isnan(watch.remaining)
    for step in (10, 20):
        writer.write(record.Point(step=step, seconds=step / 10, tokens=step * 16, name="train_loss", value=4.0 - step / 10))
    with path.open("a") as file:
        file.write('{"kind":"point","ste')  # a line that is being written
    watch.look(0)
    assert (watch.step, watch.loss, watch.rates) == (20, 2.0, (10.0, 160.0))
    assert watch.remaining == pytest.approx(8.0)
    assert watch.cells()[:5] == ["idea seed 0", "20/100", "2.000", "160", "2.0 s"]


def test_a_checkpoint_that_cannot_be_read_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = planning.trial()
    writer = record.Writer(record.path_of(tmp_path / "s", trial.id, 0))
    start = fake_records.start(trial)
    writer.write(dataclasses.replace(start, settings={**start.settings, "checkpoint": "unreadable"}))
    display = progress.Display([trial], tmp_path, waiting=1, workers=1, quiet=False)
    display.show({trial.id: 0})
    display.show({trial.id: 0})
    assert capsys.readouterr().err == "warning: idea seed 0: its checkpoint cannot be read; it starts again from step 0\n"


def test_names_tell_trials_apart() -> None:
    trials = [planning.trial(seed, lr=lr) for lr in (0.1, 0.2) for seed in (0, 1)]
    names = list(progress.names(trials).values())
    assert names == ["idea lr=0.1 seed 0", "idea lr=0.1 seed 1", "idea lr=0.2 seed 0", "idea lr=0.2 seed 1"]


@pytest.mark.parametrize(("seconds", "text"), [(8.24, "8.2 s"), (185, "3:05"), (7385, "2:03:05"), (math.nan, "-"), (math.inf, "-")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_cut_record_is_a_row(tmp_path: Path) -> None:
    trial = planning.trial()
    fake_records.write(tmp_path, trial, "reached")
    path = record.path_of(tmp_path / "s", trial.id, 0)
    text = path.read_text()
    path.write_text(text[:-20])
    [row] = status.scan(tmp_path / "s")
    assert row.status == "killed"
    path.write_text(text[:40])
    [row] = status.scan(tmp_path / "s")
    assert (row.status, row.reason) == ("killed", "it wrote no whole line")


def test_missing_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def none() -> Any:
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", none)
    with pytest.raises(ValueError, match="this torch sees 0 GPUs"):
        launch.check_device("cuda")


def test_tables_fold_to_the_line_and_lose_no_word() -> None:
    words = " ".join(f"word{number}" for number in range(30))
    table = [["name", "about", "formula"], ["one", words, "2*m*n + 1"], ["two", "short", words]]
    for line in (text := status.folded(table, 70)).splitlines():
        assert len(line) <= 70
    assert sorted(text.split()) == sorted(" ".join(" ".join(row) for row in table).split())
    assert status.folded(table, 0) == status.aligned(table)
    assert status.folded(table, 10_000) == status.aligned(table)


def test_show_tells_class_memory_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("show", "lift") == 0
    text = capsys.readouterr().out
    expected = ("class: selection", "paper: Liu et al. 2025", "in fp32 numbers: 3*rank*(m + n)", "filter_rank", "llama_nano: lr = 0.005")
    for part in expected:
        assert part in text
