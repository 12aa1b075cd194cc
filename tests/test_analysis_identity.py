"""Which trials are pooled: of one race, one file, one version of it, and one seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import identity, load, report, scores, tables, times
from runner.record import End, Point, Start, Writer, path_of
from runner.trial import Trial
from tests import fake_records, records


def _write(folder: Path, name: str, seed: int, seconds: float, *, source: dict[str, Any] | None = None, **changes: Any) -> None:
    """A trial that reached its target after so many seconds; each was begun a second after the one before."""
    number = len(list(folder.rglob("*.jsonl")))
    start: dict[str, Any] = {
        "trial": f"t{number:03}", "attempt": 0, "study": "s", "time": f"2026-01-01T00:00:{number:02}+00:00", "workload": "w",
        "base_workload": None, "submission": name, "hyperparameters": {"lr": 0.01}, "seed": seed, "ruleset": "external",
        "tuning_study": seed, "tuning_trial": 0, "target": dict(records.TARGET), "budget": {"steps": 100, "seconds": 60.0},
        "stop": "target", "parameters": 1, "tokens_per_step": 16, "data": {}, "source": source or {"file": f"{name}.py", "sha256": name},
        "settings": {}, "fingerprint": {"id": "a"},
    }  # fmt: skip
    reached = {"step": 20, "seconds": seconds, "value": 2.0}
    writer = Writer(path_of(folder, start["trial"], 0))
    writer.write(
        Start(**{**start, **changes}),
        Point(step=20, seconds=seconds, tokens=320, name="val_loss", value=2.0),
        End(status="reached", step=20, seconds={"total": seconds}, bytes={"state": 8.0}, reached=reached),
    )
    writer.close()


def test_the_best_configuration_is_chosen_for_each_machine(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        _write(tmp_path, "fira", seed, 6.0, hyperparameters={"lr": 0.01}, fingerprint={"id": "a"})
    for seed in (0, 1):
        _write(tmp_path, "fira", seed, 5.5, hyperparameters={"lr": 0.02}, fingerprint={"id": "b"})
        _write(tmp_path, "adam", seed, 9.5, hyperparameters={"lr": 0.01}, fingerprint={"id": "b"})
    of = report.digest(*load.study(tmp_path))
    assert of.summary[["fingerprint", "submission"]].to_numpy().tolist() == [["a", "fira"], ["b", "fira"], ["b", "adam"]]
    assert "machine b, fira reached the target first" in " ".join(of.headlines.values())


def test_rulesets_are_told_apart(tmp_path: Path) -> None:
    for seed, (tuned, free) in enumerate([(11.0, 21.0), (13.0, 25.0)]):
        _write(tmp_path, "a", seed, tuned, ruleset="external")
        _write(tmp_path, "a", seed, free, ruleset="self")
    of = report.digest(*load.study(tmp_path))
    assert of.summary.set_index("ruleset")["reached_seconds"].to_dict() == {"external": 12.0, "self": 23.0}
    assert of.summary["n"].tolist() == [2, 2]
    assert "self" in report.words(of)


def _file(path: str, version: str) -> dict[str, Any]:
    """What a record says of a submission from a file: its text's hash and name, and what was asked for."""
    return {"source": {"file": Path(path).name, "sha256": version}, "settings": {"asked": {"submission": path}}}


def test_an_edited_file_replaces_what_it_ran_before(tmp_path: Path) -> None:
    for version, start in (("1", 30.0), ("2", 10.0)):
        for seed in (0, 1):
            _write(tmp_path, "my", seed, start + seed, **_file("/home/u/my.py", version))
    _write(tmp_path, "my", 2, 33.0, **_file("/home/u/my.py", "1"))
    trials = identity.settled(load.study(tmp_path)[0])
    assert sorted(trials["reached_seconds"]) == [10.0, 11.0, 33.0], "nothing newer ran seed 2"
    (said,) = trials.attrs["replaced"]
    assert said.startswith("my: 2 trials of an older version of its source left out")


def test_two_files_of_one_name_are_two_submissions_and_a_copy_is_not(tmp_path: Path) -> None:
    for place, version in (("a", "1"), ("b", "2"), ("elsewhere", "2")):
        _write(tmp_path, "opt", 0, 5.0, **_file(f"/home/{place}/opt.py", version))
    _write(tmp_path, "adam", 0, 5.0)
    _write(tmp_path, "adam", 0, 6.0, **_file("/home/a/adam.py", "3"))
    trials = identity.settled(load.study(tmp_path)[0])
    assert trials["submission"].tolist() == ["a/opt", "b/opt", "b/opt", "adam", "a/adam"]
    assert not trials.attrs["replaced"]


def test_records_of_the_runner_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "my.py").write_text("# " + place)
        chosen = Trial(study="s", workload="w", submission=str(tmp_path / place / "my.py"), hyperparameters={}, seed=0, source_sha256=place)
        start = dataclasses.replace(fake_records.start(chosen), source={"file": "my.py", "sha256": place})
        writer = Writer(path_of(tmp_path / "s", chosen.id, 0))
        writer.write(start, End(status="missed", step=1, seconds={"total": 1.0}, bytes={}))
        writer.close()
    assert sorted(identity.settled(load.study(tmp_path)[0])["submission"]) == ["a/my", "b/my"]


def _runs(rows: list[tuple[str, int, float, float]], study: dict[int, int] | None = None) -> pd.DataFrame:
    """From (submission, seed, learning rate, seconds)."""
    table = pd.DataFrame(rows, columns=["submission", "seed", "hp.lr", "reached_seconds"])
    table["tuning_study"] = 0 if study is None else table["seed"].map(study)
    return table.assign(workload="w", base_workload=None, ruleset="external", trial=[str(k) for k in range(len(table))])


def test_configurations_that_share_seeds_are_chosen_among_seed_by_seed() -> None:
    x = [("x", 0, 0.01, 10.0), ("x", 1, 0.01, 20.0), ("x", 2, 0.01, 30.0), ("x", 1, 0.02, 4.0), ("x", 2, 0.02, 28.0)]
    y = [("y", seed, 0.01, 13.0) for seed in (0, 1, 2)]
    studies = times.studies(times.runs(_runs(x + y)))
    assert studies.loc[studies["submission"] == "x", "time"].tolist() == [10.0, 4.0, 28.0]
    assert scores.leaderboard(studies, draws=0)["submission"].tolist() == ["x", "y"]


def test_points_with_seeds_of_their_own_are_one_search() -> None:
    rows = [("x", 7 * k, 0.1 * k, float(k)) for k in range(1, 7)]
    studies = times.studies(times.runs(_runs(rows, {7: 0, 14: 0, 21: 0, 28: 1, 35: 1, 42: 1})))
    assert studies["time"].tolist() == [1.0, 4.0]


def test_trials_without_a_machine_are_a_machine_too(tmp_path: Path) -> None:
    _write(tmp_path, "a", 0, 5.0, fingerprint={})
    best = tables.best(*load.study(tmp_path))
    assert best["fingerprint"].tolist() == ["unknown"]
    assert best["reached_seconds"].tolist() == [pytest.approx(5.0)]
