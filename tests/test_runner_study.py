"""From YAML to trials: what is expanded, what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from runner import catalog, documents, hyperparameters, search, study
from runner.trial import Trial
from tests import planning


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    planning.files(tmp_path)


def expand(folder: Path, text: str) -> list[Trial]:
    path = folder / "ranks.yaml"
    path.write_text(f"workload: ./paper.py:small\n{text}" if "workload" not in text else text)
    return study.read(path)


def test_set_fixes_and_sweep_crosses(tmp_path: Path) -> None:
    entry = "{submission: ./idea.py, set: {betas: [0.8, 0.9]}, sweep: {rank: [4, 16], limiter: [none, growth]}}"
    trials = expand(tmp_path, f"seeds: [0, 1]\ntrials: [{entry}]")
    seen = [(t.hyperparameters["rank"], t.hyperparameters["limiter"], t.seed) for t in trials]
    assert seen == [(r, limiter, s) for r in (4, 16) for limiter in ("none", "growth") for s in (0, 1)]
    assert all(t.hyperparameters["betas"] == [0.8, 0.9] for t in trials)
    assert {t.study for t in trials} == {"ranks"}
    assert [(t.tuning_study, t.tuning_trial) for t in trials[:4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_zip_goes_side_by_side_and_points_list(tmp_path: Path) -> None:
    trials = expand(tmp_path, "trials: [{submission: ./idea.py, zip: {rank: [4, 8], lr: [0.1, 0.2]}, points: [{floor: 1}, {floor: null}]}]")
    seen = [tuple(t.hyperparameters[name] for name in ("rank", "lr", "floor")) for t in trials]
    assert seen == [(4, 0.1, 1.0), (8, 0.2, 1.0), (4, 0.1, None), (8, 0.2, None)]


def test_all_defaults_are_resolved(tmp_path: Path) -> None:
    [trial] = expand(tmp_path, "trials: [{submission: ./idea.py}]")
    assert trial.hyperparameters == hyperparameters.values(catalog.submission_class(str(tmp_path / "idea.py"))())
    assert Trial.from_json(trial.to_json()) == trial


def test_the_id_follows_content_alone(tmp_path: Path) -> None:
    [trial] = expand(tmp_path, "trials: [{submission: ./idea.py}]")
    labels = {"study": "other", "tuning_study": 3, "tuning_trial": 4, "ruleset": "self", "space": {"seed": 1}}
    assert dataclasses.replace(trial, **labels).id == trial.id
    moved = dataclasses.replace(trial, submission=f"/elsewhere/{Path(trial.submission).name}")
    assert moved.id == trial.id
    others = [
        {"seed": 7},
        {"source_sha256": "0"},
        {"workload_sha256": "0"},
        {"stop": "budget"},
        {"probes_every": 5},
        {"hyperparameters": {**trial.hyperparameters, "lr": 0.5}},
    ]
    assert len({trial.id, *(dataclasses.replace(trial, **change).id for change in others)}) == 7


def test_a_changed_file_is_another_trial(tmp_path: Path) -> None:
    [before] = expand(tmp_path, "trials: [{submission: ./idea.py}]")
    file = tmp_path / "idea.py"
    file.write_text(file.read_text() + "\n# one more thought\n")
    catalog.forget(str(file))
    [after] = expand(tmp_path, "trials: [{submission: ./idea.py}]")
    assert before.id != after.id


def test_overrides_change_the_workload_and_its_name(tmp_path: Path) -> None:
    plain, changed = expand(
        tmp_path,
        "workloads: [./paper.py:small, {name: ./paper.py:small, overrides: {steps: 7, target: 1.5, data: wiki}}]\n"
        "overrides: {seconds: 9}\ntrials: [{submission: ./idea.py}]",
    )
    assert plain.workload_name == "small[seconds=9]"
    assert changed.workload_name == "small[data=wiki,seconds=9,steps=7,target=1.5]"
    workload = catalog.workload(changed.workload, changed.overrides)
    assert (workload.budget.steps, workload.budget.seconds, workload.target.value) == (7, 9.0, 1.5)  # type: ignore[union-attr]  # it has one
    assert plain.id != changed.id


def test_external_studies_have_disjoint_seeds_and_points(tmp_path: Path) -> None:
    text = (
        "tuning_studies: 3\ntuning_trials: 4\ntuning_seed: 5\ntrials:\n"
        "- {submission: ./idea.py, search: {lr: {log: [1.0e-3, 1.0]}, limiter: {values: [none, growth]},"
        " floor: {linear: [0.0, 1.0], when: {limiter: growth}}}}"
    )
    trials = expand(tmp_path, text)
    assert [(t.tuning_study, t.tuning_trial) for t in trials] == [(s, k) for s in range(3) for k in range(4)]
    assert len({t.seed for t in trials}) == 12
    assert len({t.hyperparameters["lr"] for t in trials}) == 12
    assert all((t.hyperparameters["floor"] is None) == (t.hyperparameters["limiter"] == "none") for t in trials)
    assert trials[0].space is not None
    assert trials[0].space["seed"] == 5
    assert [t.id for t in expand(tmp_path, text)] == [t.id for t in trials]
    assert {t.id for t in expand(tmp_path, text.replace("tuning_seed: 5", "tuning_seed: 6"))}.isdisjoint(t.id for t in trials)


def test_explicit_points_serve_every_study_or_are_dealt_out(tmp_path: Path) -> None:
    text = "tuning_studies: 2\ntuning_trials: 2\ntrials: [{submission: ./idea.py, points: [%s]}]"
    both = expand(tmp_path, text % "{rank: 1}, {rank: 2}")
    assert [t.hyperparameters["rank"] for t in both] == [1, 2, 1, 2]
    dealt = expand(tmp_path, text % "{rank: 1}, {rank: 2}, {rank: 3}, {rank: 4}")
    assert [(t.tuning_study, t.hyperparameters["rank"]) for t in dealt] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    with pytest.raises(ValueError, match="3 points: expected at most tuning_trials = 2"):
        expand(tmp_path, text % "{rank: 1}, {rank: 2}, {rank: 3}")


def test_self_tuning_gets_a_longer_budget_and_no_hyperparameters(tmp_path: Path) -> None:
    [short] = expand(tmp_path, "ruleset: self\noverrides: {steps: 20}\ntrials: [{submission: ./idea.py}]")
    assert short.overrides["steps"] == 60, "three times the budget, also of a changed one"
    [trial] = expand(tmp_path, "ruleset: self\ntrials: [{submission: ./idea.py}]")
    assert trial.overrides == {"steps": 300, "seconds": 180.0}
    with pytest.raises(ValueError, match="self allows no hyperparameters"):
        expand(tmp_path, "ruleset: self\ntrials: [{submission: ./idea.py, sweep: {rank: [1, 2]}}]")


def test_shared_settings_reach_those_that_have_them(tmp_path: Path) -> None:
    trials = expand(tmp_path, "set: {rank: 3}\ntrials: [{submission: ./idea.py}, {submission: sgd}]")
    assert trials[0].hyperparameters["rank"] == 3
    assert "rank" not in trials[1].hyperparameters
    with pytest.raises(ValueError, match="no submission here has a hyperparameter 'rnk'; did you mean 'rank'"):
        expand(tmp_path, "set: {rnk: 3}\ntrials: [{submission: ./idea.py}]")


WRONG = {
    "trails: []": "line 2: a study has no key 'trails'; did you mean 'trials'?",
    "trials: []": "trials: expected a list",
    "trials:\n- {submission: ./idea.py, sets: {rank: 3}}": "line 3: an entry of trials has no key 'sets'; did you mean 'set'?",
    "trials: [{submission: galor}]": "unknown submission 'galor'; did you mean 'galore'?",
    "trials: [{submission: ./idea.py, set: {rnk: 3}}]": "Idea has no hyperparameter 'rnk'; did you mean 'rank'?",
    "trials: [{submission: ./idea.py, set: {lr: 5e-4}}]": "lr = '5e-4': expected a number; this is text",
    "trials: [{submission: ./idea.py, set: {lr: 1e3}}]": "write 1.0e+3",
    "trials: [{submission: ./idea.py, set: {limiter: off}}]": "YAML reads bare on, off, yes and no as booleans",
    "trials: [{submission: ./idea.py, set: {limiter: grwth}}]": "expected one of none, growth; did you mean 'growth'?",
    "trials: [{submission: ./idea.py, set: {nesterov: 1}}]": "nesterov = 1: expected true or false",
    "trials: [{submission: ./idea.py, set: {rank: 2.5}}]": "rank = 2.5: expected a whole number",
    "trials: [{submission: ./idea.py, set: {rank: [4, 16]}}]": "put it under `sweep`",
    "trials: [{submission: ./idea.py, set: {betas: [0.9]}}]": "expected 2 values, got 1",
    "trials: [{submission: ./idea.py, set: {rank: 0}}]": "Idea: rank = 0: expected at least 1",
    "trials: [{submission: ./idea.py, set: {lr: -1.0}}]": "Idea: lr = -1.0: expected a positive number",
    "trials: [{submission: ./idea.py, sweep: {rank: 4}}]": "sweep: rank = 4: expected a list",
    "trials: [{submission: ./idea.py, set: {rank: 4}, sweep: {rank: [4]}}]": "'rank' stands in two of",
    "trials: [{submission: ./idea.py, zip: {rank: [1, 2], lr: [0.1]}}]": "zip: expected lists of one length, got rank: 2, lr: 1",
    "trials: [{submission: ./idea.py, search: {rank: {values: [1]}}}]": "expected tuning_studies and tuning_trials",
    "trials: [{submission: ./idea.py}, {submission: ./idea.py}]": "entry 2 of trials: the same trial as in entry 1: idea on small, seed 0",
    "trials: [{submission: ./gone.py}]": "gone.py: cannot be read",
    "seeds: [1, 1]\ntrials: [{submission: ./idea.py}]": "expected different whole numbers",
    "seeds: 3\ntrials: [{submission: ./idea.py}]": "seeds = 3: expected a list",
    "seeds: [0]\ntuning_studies: 2\ntrials: [{submission: ./idea.py}]": "seeds and tuning_studies: expected one of them",
    "stop: targt\ntrials: [{submission: ./idea.py}]": "expected one of target, budget; did you mean 'target'?",
    "study: a/b\ntrials: [{submission: ./idea.py}]": "expected a name that can be a folder",
    "overrides: {step: 5}\ntrials: [{submission: ./idea.py}]": "Paper has no setting 'step'; did you mean 'steps'?",
    "overrides: {steps: 0}\ntrials: [{submission: ./idea.py}]": "steps = 0: expected a positive number",
    "workload: smal\ntrials: [{submission: ./idea.py}]": "unknown workload 'smal'",
    "workload: ./paper.py:smal\ntrials: [{submission: ./idea.py}]": "did you mean 'small'?",
    "seeds: [0]\nseeds: [1]": "line 3: the key 'seeds' stands here for the second time (first in line 2)",
    "trials: [": "not valid YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_study_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(WRONG[text])) as error:
        expand(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "ranks.yaml"))
    assert "\n" not in str(error.value)


FILES = {
    "import torch\nraise RuntimeError('boom')\n": "line 2: RuntimeError: boom",
    "def f(:\n": "line 1: SyntaxError",
    "x = 1\n": "no submission in it; expected one class",
    planning.SUBMISSION + planning.SUBMISSION.replace("Idea", "Notion"): "2 submissions in it: Idea (line 8), Notion (line",
    planning.SUBMISSION.partition("    def update")[0]: "line 8: Idea does not define update(), which a MatrixSubmission must",
    planning.SUBMISSION.replace(
        "@dataclass(frozen=True, kw_only=True)", ""
    ): "must be decorated with @dataclass(frozen=True, kw_only=True)",
    planning.SUBMISSION.replace("(frozen=True, kw_only=True)", ""): "line 8: TypeError: cannot inherit non-frozen dataclass",
    planning.SUBMISSION.replace("rank: int = 8", "rank: int"): "the hyperparameter 'rank' of Idea needs a default value",
}


@pytest.mark.parametrize("text", FILES, ids=FILES.values())
def test_a_wrong_submission_file_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(FILES[text])) as error:
        catalog.submission_class(str(path))
    assert str(path) in str(error.value)


def test_our_own_submissions_and_workloads_are_found_by_name() -> None:
    assert {"adam", "galore", "fira", "sgd"} <= set(catalog.submission_names())
    assert {"base", "engine", "linalg"}.isdisjoint(catalog.submission_names())
    assert "llama_nano" in catalog.workload_names()
    for name in catalog.submission_names():
        assert hyperparameters.resolve(catalog.submission_class(name), {}) == catalog.submission_class(name)()


def test_shipped_studies_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planning.files(tmp_path)
    (tmp_path / "my_optimizer.py").write_text(planning.SUBMISSION)
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in study.names()
    for name in study.names():
        assert study.read(study.locate(name))
    with pytest.raises(ValueError, match="did you mean 'quickstart'"):
        study.locate("quickstrt")


def test_values_on_a_command_line_may_be_written_as_people_do() -> None:
    assert [documents.value(text) for text in ("5e-4", "3", "none", "null", "[1, 2]", "true")] == [5e-4, 3, "none", None, [1, 2], True]


SPACE = {
    "lr": {"log": [1e-4, 1e-1]},
    "gap": {"integer": [5, 7]},
    "rank": {"values": [4, 16]},
    "floor": {"linear": [0.0, 1.0], "when": {"rank": 16}},
}


def test_draws_fill_the_space_and_keep_conditions() -> None:
    space = search.parse(SPACE)
    points = search.draw(space, 64, seed=1)
    assert {point["gap"] for point in points} == {5, 6, 7}
    assert all(1e-4 <= point["lr"] <= 1e-1 for point in points)
    assert sum(point["lr"] < 10**-2.5 for point in points) in range(28, 37)  # half of a log axis lies below its middle
    assert all(("floor" in point) == (point["rank"] == 16) for point in points)
    assert search.draw(space, 8, seed=1) == points[:8]
    assert search.draw(space, 8, seed=2) != points[:8]


def test_edges_are_told_for_ranges_only() -> None:
    space = search.parse({**SPACE, "limiter": {"values": ["none", "growth"]}})
    assert search.at_edge(space, {"lr": 9.9e-2, "gap": 6, "rank": 16, "limiter": "none"}) == ["lr", "rank"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": {"lgo": [1, 2]}}, "did you mean 'log'?"),
        ({"lr": {"log": [0.0, 1.0]}}, "expected low < high, both positive"),
        ({"lr": {"linear": [2, 1]}}, "expected low < high"),
        ({"lr": 3}, "expected one of linear, log"),
        ({"a": {"values": [1], "when": {"b": 1}}, "b": {"values": [1], "when": {"a": 1}}}, "without a circle"),
    ],
)
def test_a_wrong_space_is_refused(space: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        search.parse(space)


def test_a_space_typed_on_a_command_line() -> None:
    assert search.from_text(["lr=log:1e-4:1e-1", "rank=values:4,16"]) == {"lr": {"log": [1e-4, 1e-1]}, "rank": {"values": [4, 16]}}
    with pytest.raises(ValueError, match="expected NAME=KIND:LOW:HIGH"):
        search.from_text(["lr=0.1"])


def test_a_target_can_be_given_to_a_workload_that_has_none(tmp_path: Path) -> None:
    planning.files(tmp_path)
    name = f"{tmp_path / 'paper.py'}:small"
    aimless = {"target": None}
    assert catalog.workload(name, aimless).target is None
    variant = catalog.workload("llama_7b", {"target": 2.5}).target
    assert variant is not None
    assert (variant.metric, variant.value, variant.mode, variant.provisional) == ("val_loss", 2.5, "min", True)
    given = catalog.workload(name, {"target": 1.5}).target
    assert given is not None
    assert (given.value, given.source) == (1.5, "given as an override"), "where the frozen value came from says nothing about this one"
    with pytest.raises(ValueError, match=r"target\.metric = 'x': .* has no target; give its value first"):
        catalog.workload("llama_7b", {"target.metric": "x"})
