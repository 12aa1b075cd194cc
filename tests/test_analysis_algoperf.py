"""AlgoPerf's logs: every way in which a tree can be incomplete, and scores worked out by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import algoperf, scores, times
from runner import cli

INF = float("inf")
TARGETS = {
    "base_workloads": ["fastmri", "imagenet_resnet", "wmt"],
    "held_out_workloads": ["imagenet_resnet_silu"],
    "workloads": {
        "fastmri": {"target_metric_name": "ssim", "validation_target_value": 0.7},
        "imagenet_resnet": {"target_metric_name": "validation/accuracy", "validation_target_value": 0.8},
        "imagenet_resnet_silu": {"target_metric_name": "accuracy", "validation_target_value": 0.75},
        "wmt": {"target_metric_name": "loss", "validation_target_value": 2.0},
        "unused": {"target_metric_name": "wer", "validation_target_value": 0.1},
    },
}
METRIC = {"fastmri": "ssim", "imagenet_resnet": "accuracy", "imagenet_resnet_silu": "accuracy", "wmt": "loss", "unused": "wer"}


def _log(
    folder: Path, submission: str, workload: str, times: Sequence[Any], values: Sequence[Any], *,
    study: int | None = 1, trial: int | None = 1, framework: str = "_jax",
) -> Path:  # fmt: skip
    home = folder / submission / (f"study_{study}" if study is not None else "") / f"{workload}{framework}"
    path = (home / f"trial_{trial}" if trial is not None else home) / "eval_measurements.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"train/{METRIC[workload]},validation/{METRIC[workload]},score,global_step,comment"
    rows = [f"9,{value},{time},{100 * k},text" for k, (time, value) in enumerate(zip(times, values, strict=True))]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def _file(folder: Path, content: dict[str, Any] | None = None) -> Path:
    path = folder / "targets.json"
    path.write_text(json.dumps(TARGETS if content is None else content))
    return path


def _times(folder: Path, **options: Any) -> dict[tuple[str, str], float]:
    runs = algoperf.runs(folder / "logs", algoperf.targets(_file(folder)), **options)
    cells = times.to_target(times.studies(runs))
    return {(row.submission, row.workload): row.time for row in cells.itertuples()}


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("ssim", "max"), ("validation/accuracy", "max"), ("mean_average_precision", "max"), ("bleu", "max"), ("sacrebleu", "max"),
        ("top1_accuracy", "max"), ("auc", "max"), ("map", "max"), ("loss", "min"), ("wer", "min"), ("ctc_loss", "min"),
        ("word_error_rate", "min"), ("mape", "min"), ("ppl", "min"), ("accuracy_error", "min"), ("something", "min"),
    ],
)  # fmt: skip
def test_the_direction_of_a_metric(metric: str, mode: str) -> None:
    assert algoperf.mode_of(metric) == mode


def test_reaching_is_inclusive_in_both_directions(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "a", "fastmri", [10, 20, 30], [0.69, 0.7, 0.9])
    _log(tmp_path / "logs", "a", "wmt", [10, 20, 30], [2.1, 2.0, 1.5], framework="_pytorch")
    assert _times(tmp_path) == {("a", "fastmri"): 20, ("a", "wmt"): 20}


def test_empty_and_nan_cells_and_text_are_no_values(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "a", "fastmri", [10, 20, "", "nan", 50, 60], ["", "nan", 0.9, 0.9, "broken", 0.8])
    _log(tmp_path / "logs", "a", "wmt", [10, 20, 30], ["-inf", "", 1.0])
    assert _times(tmp_path) == {("a", "fastmri"): 60, ("a", "wmt"): 30}


def test_fastest_trial_by_time_median_of_studies_and_the_rule_by_evaluation(tmp_path: Path) -> None:
    for study, (first, second) in enumerate([(100, 40), (30, 90), (200, 60)]):
        # trial 1 reaches at its first evaluation, which comes late; trial 2 at its second
        _log(tmp_path / "logs", "a", "fastmri", [first], [0.8], study=study, trial=1)
        _log(tmp_path / "logs", "a", "fastmri", [second - 5, second], [0.1, 0.8], study=study, trial=2)
    assert _times(tmp_path) == {("a", "fastmri"): 40}
    assert _times(tmp_path, rule="index") == {("a", "fastmri"): 100}


def test_missing_trials_are_no_runs_but_silent_ones_are_misses(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    _log(logs, "a", "fastmri", [10], [0.8], study=1)
    _log(logs, "a", "fastmri", [10], [0.1], study=2)
    (logs / "a" / "study_3" / "fastmri_jax" / "trial_1").mkdir(parents=True)
    _log(logs, "b", "fastmri", [10], [0.8], study=1)
    (logs / "b" / "study_2" / "fastmri_jax").mkdir(parents=True)
    _log(logs, "b", "fastmri", [], [], study=3)
    runs = algoperf.runs(logs, algoperf.targets(_file(tmp_path)))
    assert sorted(runs["time"]) == [10, 10, INF, INF, INF, INF]
    notes = "\n".join(runs.attrs["notes"])
    assert "2 trials with no eval_measurements.csv: missed (first: a/study_3/fastmri_jax/trial_1/eval_measurements.csv)" in notes
    assert "1 trial with no number under ssim: missed" in notes
    assert "held-out imagenet_resnet_silu: no logs of anybody" in notes


def test_files_without_the_needed_columns_are_misses_and_named(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8])
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8], trial=2).write_text("")
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8], trial=3).write_text("score,global_step\n1,2\n")
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8], trial=4).write_text("validation/ssim,global_step\n0.9,1\n")
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8], trial=5).write_text("score;validation/ssim\n10;0.9\n")
    runs = algoperf.runs(tmp_path / "logs", algoperf.targets(_file(tmp_path)))
    assert runs["time"].tolist() == [10, INF, INF, INF, INF]
    notes = "\n".join(runs.attrs["notes"])
    for expected in ("an empty file", "no column validation/ssim", "no column score", "no commas in its first line"):
        assert f"1 trial with {expected}: missed" in notes


def test_a_last_line_that_was_cut_off_is_not_a_value(tmp_path: Path) -> None:
    path = _log(tmp_path / "logs", "a", "fastmri", [1000, 2000], [0.1, 0.2])
    path.write_text(path.read_text() + "9,0.9,30")  # 3000 seconds, cut
    assert _times(tmp_path) == {("a", "fastmri"): INF}
    path.write_text(path.read_text() + "00,200,text")  # whole, though without a newline
    assert _times(tmp_path) == {("a", "fastmri"): 3000}


def test_quotes_carriage_returns_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = _log(tmp_path / "logs", "a", "fastmri", [10, 20], [0.1, 0.8])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert _times(tmp_path) == {("a", "fastmri"): 20}
    path.write_text('"a, b",score,validation/ssim\n"x, y",10,0.1\n"x, y",20,"0.8"\n')
    assert _times(tmp_path) == {("a", "fastmri"): 20}


def test_a_header_in_the_middle_holds_for_what_follows_it(tmp_path: Path) -> None:
    path = _log(tmp_path / "logs", "a", "fastmri", [10, 20], [0.1, 0.2])
    path.write_text(path.read_text() + "validation/ssim,comment,score\n0.3,text,30\n0.8,text,40\n")
    assert _times(tmp_path) == {("a", "fastmri"): 40}


def test_old_line_ends_packed_files_and_metrics_without_a_prefix_are_read(tmp_path: Path) -> None:
    path = _log(tmp_path / "logs", "a b", "fastmri", [10, 20], [0.1, 0.8], study=0, trial=0)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    packed = _log(tmp_path / "logs", "packed", "fastmri", [30], [0.8])
    packed.with_name("eval_measurements.csv.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    plain = _log(tmp_path / "logs", "plain", "fastmri", [], [])
    plain.write_text("score, ssim\n40, 0.9\n-1, 0.9\n")
    assert _times(tmp_path) == {("a b", "fastmri"): 20, ("packed", "fastmri"): 30, ("plain", "fastmri"): 40}


def test_trials_may_have_names_of_their_own(tmp_path: Path) -> None:
    for number, seconds in enumerate((30, 20)):
        path = _log(tmp_path / "logs", "a", "fastmri", [seconds], [0.8])
        path.parent.rename(path.parent.with_name(f"run{number}"))
    assert _times(tmp_path) == {("a", "fastmri"): 20}


def test_trees_without_studies_or_trials_and_workload_names_with_underscores(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "self_tuning", "imagenet_resnet", [10], [0.8], trial=None)
    _log(tmp_path / "logs", "plain", "imagenet_resnet", [20], [0.8], study=None, framework="_pytorch")
    _log(tmp_path / "logs", "external/nested", "imagenet_resnet", [30], [0.8], framework="")
    expected = {"self_tuning": 10, "plain": 20, "external/nested": 30}
    assert _times(tmp_path) == {(name, "imagenet_resnet"): seconds for name, seconds in expected.items()}


def test_unknown_workloads_are_left_out_and_said(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "a", "fastmri", [10], [0.8])
    _log(tmp_path / "logs", "a", "unused", [10], [0.0])
    runs = algoperf.runs(tmp_path / "logs", algoperf.targets(_file(tmp_path)))
    assert runs["workload"].tolist() == ["fastmri"]
    assert "not in the targets, so left out: unused" in runs.attrs["notes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        ('{"base_workloads": ["x"], "workloads": {}}', "no entry under workloads for x"),
        ('{"workloads": {"x": {"target_metric_name": "loss"}}}', "validation_target_value"),
        ('{"workloads": {"x": {"target_metric_name": "loss", "validation_target_value": "1"}}}', "expected a number"),
        (json.dumps(TARGETS | {"base_workloads": ["wmt"]}), "held-out imagenet_resnet_silu begins with the name of no base"),
    ],
)
def test_a_bad_targets_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        algoperf.targets(path)
    with pytest.raises(ValueError, match="No such file"):
        algoperf.targets(tmp_path / "absent.json")


def _competition(folder: Path) -> Path:
    """a is fastest on fastmri and on imagenet, but misses the variant there; nobody of them but b runs wmt."""
    logs = folder / "logs"
    for study in (1, 2, 3):
        for name, fast, image, variant in (("a", 10, 10, 0.7), ("b", 20, 20, 0.9), ("c", 40, 30, 0.9)):
            _log(logs, name, "fastmri", [fast + study], [0.8], study=study)
            _log(logs, name, "imagenet_resnet", [image + study], [0.9], study=study)
            _log(logs, name, "imagenet_resnet_silu", [7], [variant], study=study)
        _log(logs, "b", "wmt", [10], [1.0], study=study)
    return logs


def test_the_command_prints_and_writes_the_leaderboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, targets, out = _competition(tmp_path), _file(tmp_path), tmp_path / "out" / "board.csv"
    assert cli.main(["score", "--format", "algoperf", str(logs), "--targets", str(targets), "--csv", str(out), "--trapezoid"]) == 0
    board = pd.read_csv(out)
    assert list(board.columns[:4]) == ["submission", "score", "low", "high"]
    score = dict(zip(board["submission"], board["score"], strict=True))
    # imagenet: a is disqualified, so b (22 s) is the fastest there and c (32 s) is measured against it
    assert score["a"] == pytest.approx(1 / 3)
    assert score["b"] == pytest.approx(((4 - 22 / 12) / 3 + 1 + 1) / 3)
    assert score["c"] == pytest.approx(((4 - 42 / 12) / 3 + (4 - 32 / 22) / 3) / 3)
    assert ((board["low"] <= board["score"]) & (board["score"] <= board["high"])).all()
    printed = capsys.readouterr().out
    for expected in ("b", "held-out variants that may disqualify", "a: no trial on wmt, counts as unsolved", "r_max = 4", "95 %"):
        assert expected in printed


def test_the_command_scores_a_subset_and_checks_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, targets = _competition(tmp_path), _file(tmp_path)
    base = ["score", "--format", "algoperf", str(logs)]
    assert cli.main([*base, "--targets", str(targets), "--workloads", "fastmri", "--rmax", "2"]) == 0
    assert "scored on a subset, 1 of 4 workloads" in capsys.readouterr().out
    for arguments, message in (
        (base, "expected --targets FILE.json"),
        ([*base, "--targets", str(targets), "--memory-cap", "8"], "--memory-cap: AlgoPerf's logs hold no memory"),
        ([*base, "--targets", str(targets), "--workloads", "mnist"], "--workloads mnist: nobody ran it"),
        (["score", str(logs), "--targets", str(targets)], "--targets and --rule are for --format algoperf"),
        (["score", "--format", "algoperf", str(tmp_path / "nowhere"), "--targets", str(targets)], "no such folder"),
        (
            ["score", "--format", "algoperf", str(targets.parent / "logs" / "a" / "study_1" / "x"), "--targets", str(targets)],
            "no such folder",
        ),
    ):
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_self_tuning_ruleset_takes_every_trial_as_a_study(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for trial, seconds in enumerate([10, 20, 60], start=1):
        _log(logs, "a", "fastmri", [seconds], [0.8], trial=trial)
    out = tmp_path / "o.csv"
    arguments = ["score", "--format", "algoperf", str(logs), "--targets", str(_file(tmp_path)), "--csv", str(out)]
    assert cli.main([*arguments, "--ruleset", "self"]) == 0
    assert pd.read_csv(out)["studies"].tolist() == ["0-3"]


@pytest.mark.parametrize("measure", ["seconds", "steps"])
def test_the_published_leaderboard_comes_out_of_logs_with_its_times(tmp_path: Path, measure: str) -> None:
    """14 submissions on the 9 workloads of v0.6: times, steps and scores are those in golden/algoperf_v06.csv.

    Source: github.com/mlcommons/submissions_algorithms, commit 05f7967 (scores, steps and their scores) and 5099f23 (seconds).
    """
    published = pd.read_csv(Path(__file__).parent / "golden" / "algoperf_v06.csv").set_index(["measure", "submission"])
    goals = {name: ("minimize" if name in ("criteo1tb", "finewebedu_lm") else "maximize") for name in published.columns.drop("score")}
    for name, goal in goals.items():
        for submission in published.loc["seconds"].index:
            seconds, steps = (published.loc[(kind, submission), name] for kind in ("seconds", "steps"))
            path = tmp_path / "logs" / str(submission) / "study_0" / f"{name}_jax" / "trial_1" / "eval_measurements.csv"
            path.parent.mkdir(parents=True)
            before, after = (3, 1) if goal == "minimize" else (1, 3)
            rows = [f"1,0,5.5,1,{before}", *([f"9,0,{seconds},{steps},{after}"] if np.isfinite(seconds) else [])]
            path.write_text("\n".join(["accumulated_eval_time,preemption_count,score,global_step,validation/measure", *rows]) + "\n")
    entries = {
        name: {"target_metric_name": "measure", "target_metric_goal": goal, "validation_target_value": 2} for name, goal in goals.items()
    }
    targets = _file(tmp_path, {"benchmark_version": "0.6", "base_workloads": [*goals], "held_out_workloads": [], "workloads": entries})
    command = ["score", "--format", "algoperf", str(tmp_path / "logs"), "--targets", str(targets), "--measure", measure]
    assert cli.main([*command, "--trapezoid", "--csv", str(tmp_path / "board.csv")]) == 0
    board = pd.read_csv(tmp_path / "board.csv").set_index("submission")
    expected = published.loc[measure, "score"]
    assert board.loc[expected.index, "trapezoid"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)
    assert board["score"].to_numpy() == pytest.approx(board["trapezoid"].to_numpy(), abs=0.0051)  # half a grid step


def test_a_goal_that_the_targets_declare_outranks_the_metrics_name(tmp_path: Path) -> None:
    _log(tmp_path / "logs", "a", "fastmri", [10, 20], [0.9, 0.6])
    entry: dict[str, Any] = {"target_metric_name": "ssim", "validation_target_value": 0.7, "target_metric_goal": "minimize"}
    runs = algoperf.runs(tmp_path / "logs", algoperf.targets(_file(tmp_path, {"workloads": {"fastmri": entry}})))
    assert runs["time"].tolist() == [20]
    with pytest.raises(ValueError, match="fastmri: target_metric_goal = 'smaller', expected minimize or maximize"):
        algoperf.targets(_file(tmp_path, {"workloads": {"fastmri": entry | {"target_metric_goal": "smaller"}}}))


def test_an_evaluation_table_of_the_published_kind_gives_the_published_kind_of_score(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    seconds = rng.uniform(1, 3, (4, 3, 3)) * 100
    for (i, j, k), value in np.ndenumerate(seconds):
        _log(tmp_path / "logs", f"s{i}", ("fastmri", "imagenet_resnet", "wmt")[j], [value], [0.9 if j < 2 else 1.0], study=int(k))
    content = TARGETS | {"held_out_workloads": []}
    targets = algoperf.targets(_file(tmp_path, content))
    board = scores.leaderboard(times.studies(algoperf.runs(tmp_path / "logs", targets)), workloads=targets.base, trapezoid=True)
    median = np.median(seconds, axis=2)
    ratio = median / median.min(axis=0)
    taus = np.linspace(1, 4, 100)
    grid = [np.trapezoid([(row <= tau).mean() for tau in taus], taus) / 3 for row in ratio]
    assert board.sort_values("submission")["trapezoid"].to_numpy() == pytest.approx(grid)
