"""Memory predicted from shapes: exact parts, the command's table, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from runner import catalog, cli, memory, plan, study
from submissions.adam import Adam
from submissions.fira import Fira

GALORE_FAMILY_1B = 0.389
"""Optimizer state of GaLore or Fira at 1B and rank 512 over Adam's: 61.1 % less, the Fira paper's abstract."""


def test_state_at_1b_falls_by_the_published_share() -> None:
    workload = catalog.workload("llama_1b")
    states = [
        memory.predict(submission, workload)["state"] for submission in (Fira(rank=512, state_dtype="bf16"), Adam(state_dtype="bf16"))
    ]
    assert states[0] / states[1] == pytest.approx(GALORE_FAMILY_1B, abs=5e-4)


def test_weights_and_gradients_are_exact_and_layerwise_keeps_the_largest_gradient() -> None:
    whole = memory.predict(Adam(), catalog.workload("llama_60m"))
    layerwise = memory.predict(Adam(), catalog.workload("llama_60m", {"layerwise": True, "batch.micro": None}))
    assert whole["gradients"] == 2 * 58_073_600
    assert layerwise["gradients"] == 2 * 32_000 * 512
    assert layerwise["state"] == whole["state"]


def test_checkpointing_keeps_fewer_activations() -> None:
    plain = memory.predict(Adam(), catalog.workload("llama_60m"))
    checkpointed = memory.predict(Adam(), catalog.workload("llama_60m", {"checkpointing": True}))
    assert checkpointed["activations"] < plain["activations"]


def test_the_command_writes_a_row_per_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    assert cli.main(["memory", "--workload", "llama_60m", "--submissions", "adam", "galore", "--set", "rank=64", "--csv", str(out)]) == 0
    with out.open(newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"adam", "galore"}
    assert int(rows["galore"]["bytes_state"]) < int(rows["adam"]["bytes_state"])
    printed = capsys.readouterr().out
    assert "galore" in printed
    assert "llama_60m  adam           -" in printed, "an estimate for full rank holds at any"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--submissions", "galore", "--set", "rank=513"], "expected 1 to 512, the short side"),
        (["--submissions", "adam", "--set", "ranks=4"], "none of these submissions has it"),
        (["--submissions", "galor"], "did you mean 'galore'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["memory", "--workload", "llama_60m", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweep_over_the_learning_rate_is_predicted_once_and_one_over_the_rank_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Fira] = []
    monkeypatch.setattr(memory, "predict", lambda submission, workload: asked.append(submission) or {})
    plan._predicted.cache_clear()
    entry = {"submission": "fira", "sweep": {"lr": [0.001, 0.01, 0.1], "rank": [4, 8]}}
    document = {"study": "s", "workload": "llama_nano", "seeds": [0, 1], "trials": [entry]}
    for trial in study.trials(document, folder=Path.cwd()):
        plan.predicted(trial)
    plan._predicted.cache_clear()
    assert [submission.rank for submission in asked] == [4, 8]


def test_the_table_marks_a_sum_of_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["memory", "--workload", "llama_nano", "--submissions", "adam", "eggroll", "--csv", str(tmp_path / "out.csv")]
    assert cli.main(words) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["eggroll"].endswith(" (sum)")
    assert not lines["adam"].endswith(" (sum)")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["is_peak"] for row in csv.DictReader(file)] == ["True", "False"]


def test_several_sizes_stand_side_by_side_with_the_papers_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    words = ["memory", "--workload", "llama_60m", "llama_7b", "--submissions", "adam", "galore", "--card", "24GB", "--csv", str(out)]
    assert cli.main(words) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["workload"], row["submission"]) for row in rows] == [
        (workload, submission) for workload in ("llama_60m", "llama_7b") for submission in ("adam", "galore")
    ]
    assert list(rows[0])[:3] == ["workload", "submission", "bytes_weights"]
    assert "hp.rank" not in rows[0]
    printed = capsys.readouterr().out
    assert "submission  llama_60m  llama_7b" in printed
    line = next(line for line in printed.splitlines() if line.startswith("llama_60m") and "galore       128" in line)
    ours = (int(rows[1]["bytes_weights"]) + int(rows[1]["bytes_state"])) / 2**30
    assert f"{100 * (ours / 0.24 - 1):+.1f} %" in line, "GaLore's table prints 0.24 G at rank 128"
    assert "fits 24GB" in printed


def test_an_estimate_for_another_rank_is_not_put_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["memory", "--workload", "llama_60m", "--submissions", "galore", "--set", "rank=64"]) == 0
    assert "papers' estimates" not in capsys.readouterr().out, "GaLore's is for rank 128"
