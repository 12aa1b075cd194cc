"""Setting a target: which trials run, which point wins, and what is frozen."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from runner import brackets, cli, launch, record, target
from runner.trial import Trial
from tests import planning
from workloads import targets
from workloads.targets import load_target, save_target

BASELINE = target.Baseline(submission="adam", space={"lr": {"log": [1e-3, 1e-2]}}, points=4, seeds=(1, 2, 3), fraction=0.4)


def write(results: Path, trial: Trial, *values: float, name: str = "val_loss") -> None:
    """A record with these validation values."""
    writer = record.Writer(record.path_of(results / trial.study, trial.id, 0))
    writer.write(brackets.bare_start(trial, 0, "cpu", 1))
    writer.write(*(record.Point(step=10 * k, seconds=1.0, tokens=1, name=name, value=value) for k, value in enumerate(values)))
    writer.close()


def test_the_search_runs_a_share_of_the_budget_and_ends_its_schedule_there() -> None:
    trials = target.search("llama_nano", {}, BASELINE)
    rates = [trial.hyperparameters["lr"] for trial in trials]
    assert len(set(rates)) == 4
    assert all(1e-3 <= rate <= 1e-2 for rate in rates)
    assert {trial.overrides["steps"] for trial in trials} == {96}
    assert {trial.hyperparameters["horizon"] for trial in trials} == {1.0}
    assert {trial.stop for trial in trials} == {"budget"}


def test_the_best_point_is_run_again_with_fresh_seeds() -> None:
    found = target.search("llama_nano", {}, BASELINE)
    again = target.repeats("llama_nano", {}, BASELINE, found[2])
    assert [trial.seed for trial in again] == [1, 2, 3]
    assert all(trial.hyperparameters == found[2].hyperparameters for trial in again)
    assert not {trial.id for trial in again} & {trial.id for trial in found}


def test_the_winner_has_the_best_finite_value(tmp_path: Path) -> None:
    trials = target.search("llama_nano", {}, BASELINE)
    chosen = target.described("llama_nano", {})
    for trial, values in zip(trials, [(3.0, 2.5), (2.4, 2.45), (2.6, math.nan), (math.nan,)], strict=True):
        write(tmp_path, trial, *values)
    winner, value = target.best(trials, tmp_path, chosen, BASELINE)
    assert (winner, value) == (trials[1], 2.4)


def test_no_finite_value_is_an_error(tmp_path: Path) -> None:
    trials = target.search("llama_nano", {}, BASELINE)
    for trial in trials:
        write(tmp_path, trial, math.nan)
    with pytest.raises(ValueError, match="no trial of the search on llama_nano has a finite val_loss; widen or move the space"):
        target.best(trials, tmp_path, target.described("llama_nano", {}), BASELINE)


def test_the_median_is_frozen_with_its_provenance(tmp_path: Path) -> None:
    chosen = target.described("llama_nano", {})
    winner = target.search("llama_nano", {}, BASELINE)[0]
    frozen, provenance = target.freeze(chosen, BASELINE, winner, {"lr=0.001": 2.5}, {1: 2.3, 2: 2.1, 3: 2.2})
    save_target("mine", frozen, provenance, tmp_path)
    loaded = load_target("mine", tmp_path)
    assert loaded is not None
    assert (loaded.value, loaded.mode, loaded.provisional) == (2.2, "min", False)
    assert "adam, best of 1 points, 96 of 240 steps" in loaded.source
    assert provenance["values_by_seed"] == {1: 2.3, 2: 2.1, 3: 2.2}
    assert provenance["data_sha256"] == chosen.open_data().identity()["sha256"]


def test_a_target_of_another_direction_takes_the_largest(tmp_path: Path) -> None:
    chosen = target.described("llama_nano", {})
    assert chosen.target is not None
    upwards = dataclasses.replace(chosen, target=dataclasses.replace(chosen.target, metric="accuracy", mode="max"))
    trials = target.search("llama_nano", {}, BASELINE)[:2]
    for trial, value in zip(trials, (0.5, 0.7), strict=True):
        write(tmp_path, trial, value, 0.1, name="accuracy")
    assert target.best(trials, tmp_path, upwards, BASELINE) == (trials[1], 0.7)


@pytest.mark.parametrize("changed", [("--data", "/texts/wiki"), ("--steps", "9")])
def test_a_changed_workload_does_not_replace_the_target_of_the_plain_one(
    changed: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "trials", lambda *_: pytest.fail("it runs before it knows where the target goes"))
    assert cli.main(["target", "llama_nano", *changed]) == 2
    name = f"llama_nano[{changed[0].strip('-')}={changed[1]}]"
    error = capsys.readouterr().err
    assert f"{name} is changed, and the package keeps targets of its own workloads alone" in error
    assert f"give --out DIR, for {name.replace('/', '_')}.yaml" in error


def test_the_target_of_a_file_goes_where_the_file_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planning.files(tmp_path)
    workload = f"{tmp_path / 'paper.py'}:small"
    frozen = target.Target(metric="val_loss", value=2.5)
    monkeypatch.setattr(target, "freeze", lambda *_: (frozen, {"date": "today"}))
    monkeypatch.setattr(launch, "trials", lambda found, args: [write(tmp_path, trial, 3.0) for trial in found] and 0)
    words = ["target", workload, "--points", "2", "--seeds", "1", "--results", str(tmp_path)]
    assert cli.main(words) == 2
    assert cli.main([*words, "--out", str(tmp_path / "targets")]) == 0
    assert [path.name for path in (tmp_path / "targets").iterdir()] == ["small.yaml"]
    loaded = load_target("small", tmp_path / "targets")
    assert loaded is not None
    assert (loaded.value, loaded.source) == (2.5, "date today")
    assert not (targets.FOLDER / "small.yaml").exists()
    assert cli.main([*words, "--out", str(tmp_path / "targets"), "--steps", "50"]) == 0
    assert load_target("small[steps=50]", tmp_path / "targets") == loaded
