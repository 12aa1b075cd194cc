from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner import cards, catalog, cli, composition, hyperparameters, memory, record, study, train
from runner.trial import Trial
from submissions.base import Submission, Training, named_roles
from tests.commonsense import overrides, write_base, write_tasks
from workloads import commonsense_files
from workloads.commonsense_data import CommonsenseData

LORA = {"submission": "lora", "rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composition")
    commonsense_files.prepare(write_tasks(folder / "source"), folder / "data")
    write_base(folder / "base")
    return folder


def trials(place: Path, submission: str, kind: str = "adapters", **entry: Any) -> list[Trial]:
    document = {"study": "s", "workload": f"commonsense_nano_{kind}", "overrides": overrides(place)}
    return study.trials({**document, "trials": [{"submission": submission, **entry}]}, folder=place)


def rows(results: Path, trial: Trial) -> list[dict[str, Any]]:
    (path,) = record.attempts(results / trial.study, trial.id)
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained(submission: Submission, place: Path, steps: int, kind: str = "adapters", seed: int = 0) -> nn.Module:
    """The model after some updates on the workload's own batches, in the order of the runner."""
    workload = catalog.workload(f"commonsense_nano_{kind}", overrides(place))
    data = workload.open_data()
    assert isinstance(data, CommonsenseData)
    model = composition.model_of(submission, workload, seed, "cpu")
    training = Training(model=model, seed=seed, steps=steps, optimizers=submission.optimizers(model, seed))

    def backward(batch: Any) -> torch.Tensor:
        loss = workload.loss(model, batch)[0] / batch.target_count
        loss.backward()
        return loss.detach()

    training.backward = backward
    for step in range(1, steps + 1):
        training.t = step
        submission.before_step(training)
        (batch,) = data.micro_batches(seed, step, workload.batch, "cpu")
        submission.train_step(training, batch)
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * submission.lr_factor(step, steps)
            optimizer.step()
        model.zero_grad(set_to_none=True)
        submission.after_step(training)
    return model


@pytest.mark.parametrize("name", ["adam", "galore", "fira", "muon"])
def test_an_optimizer_trains_the_factors_and_nothing_of_the_base(place: Path, name: str) -> None:
    cls = catalog.submission_class(name)
    few = {"rank": 2} if "rank" in {field.name for field in dataclasses.fields(cls)} else {}
    submission = composition.combined(hyperparameters.resolve(cls, few), composition.resolved(LORA))
    assert isinstance(submission, cls)
    model = trained(submission, place, 2)
    base = catalog.workload("commonsense_nano_adapters", overrides(place)).build(0, "cpu")
    weights = dict(base.named_parameters())
    roles = {role for _, role, _ in named_roles(model)}
    assert roles == {f"{role}.{factor}" for role in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
                     for factor in ("lora_a", "lora_b")}  # fmt: skip
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.abs().sum() > 0, f"{key} has not moved"
        else:
            assert torch.equal(parameter, weights[key]), f"{key} of the base has moved"


def test_adam_on_the_lora_adapter_is_the_lora_submission(place: Path) -> None:
    """Two ways to the same training: the adapter's own Adam, and the submission adam on it."""
    own = hyperparameters.resolve(catalog.submission_class("lora"), {"rank": 4, "alpha": 8.0, "lr": 1e-2})
    adam = hyperparameters.resolve(catalog.submission_class("adam"), {"lr": 1e-2})
    first = trained(own, place, 3)
    second = trained(composition.combined(adam, composition.resolved(LORA)), place, 3)
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6), name


def test_lora_steps_are_those_of_the_peft_library(place: Path) -> None:
    """Same base, batches, factors and rate: three AdamW steps by peft's own module and torch's optimizer."""
    peft = pytest.importorskip("peft")
    workload = catalog.workload("commonsense_nano_adapters", overrides(place))
    data = workload.open_data()
    values = {"rank": 4, "alpha": 8.0, "lr": 1e-2, "schedule": "constant", "warmup": 0.0}
    ours = trained(hyperparameters.resolve(catalog.submission_class("lora"), values), place, 3)
    start = trained(hyperparameters.resolve(catalog.submission_class("lora"), values), place, 0)
    theirs = workload.build(0, "cpu")
    names = [name for name, module in theirs.named_modules() if isinstance(module, nn.Linear) and name != "head"]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names)
    peft.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](theirs, config, "default")
    for name in names:
        module, given = theirs.get_submodule(name), start.get_submodule(name)
        module.lora_A["default"].weight.data.copy_(given.lora_a)
        module.lora_B["default"].weight.data.copy_(given.lora_b)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(1, 4):
        (batch,) = data.micro_batches(0, step, workload.batch, "cpu")
        optimizer.zero_grad()
        (workload.loss(theirs, batch)[0] / batch.target_count).backward()
        optimizer.step()
    for name in names:
        module, own = theirs.get_submodule(name), ours.get_submodule(name)
        assert torch.allclose(own.lora_a, module.lora_A["default"].weight, atol=1e-5), name
        assert torch.allclose(own.lora_b, module.lora_B["default"].weight, atol=1e-5), name


def test_a_trial_on_an_adapter_has_its_name_identity_and_record(place: Path, tmp_path: Path) -> None:
    (plain,) = trials(place, "lora", set={"rank": 4})
    (trial,) = trials(place, "fira", set={"rank": 2}, adapter=LORA)
    (other,) = trials(place, "fira", set={"rank": 2}, adapter={**LORA, "rank": 5})
    assert plain.submission_name == "lora"
    assert trial.submission_name == "lora+fira"
    assert len({plain.id, trial.id, other.id}) == 3
    assert trial.adapter["rank"] == 4
    assert "lr" not in trial.adapter
    assert Trial.from_json(trial.to_json()).id == trial.id
    assert train.execute(trial, tmp_path) == "missed"
    start, *points, end = rows(tmp_path, trial)
    assert start["submission"] == "lora+fira"
    assert start["settings"]["adapter"] == trial.adapter
    names = {point["name"] for point in points}
    assert {"val_loss", "accuracy", "accuracy/boolq", "answer_nats", "test_accuracy", "test_count/ARC-Easy"} <= names
    assert end["bytes"]["state"] < end["bytes"]["weights"]
    submission = composition.submission_of(trial)
    predicted = memory.predict(submission, catalog.workload(trial.workload, trial.overrides))
    assert {part: predicted[part] for part in ("weights", "gradients", "state")} == {
        part: end["bytes"][part] for part in ("weights", "gradients", "state")
    }


def test_a_trial_without_an_adapter_keeps_the_identity_it_had() -> None:
    trial = Trial(study="s", workload="llama_nano", submission="adam", hyperparameters={"lr": 0.1}, seed=0)
    assert trial.id == dataclasses.replace(trial, adapter={}).id != dataclasses.replace(trial, adapter=LORA).id


def test_full_parameters_train_by_the_same_submissions(place: Path, tmp_path: Path) -> None:
    (trial,) = trials(place, "galore", "full", set={"rank": 2})
    assert train.execute(trial, tmp_path) == "missed"
    assert "test_accuracy" in {row["name"] for row in rows(tmp_path, trial) if row["kind"] == "point"}


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"submission": "adam"}, "adam adds no factors to a model; expected an adapter, such as lora"),
        ({"submission": "relora"}, "relora brings a schedule that restarts its own Adam"),
        ({"submission": "lora", "lr": 1e-3}, "adapter: lr: the optimizer decides it"),
        ({"submission": "lora", "rnk": 4}, "Lora has no hyperparameter 'rnk'; did you mean 'rank'"),
        ({"rank": 4}, "expected the name of an adapter, such as {submission: lora, rank: 32}"),
        ({"submission": "peft", "method": "lora_plus"}, "peft: method = lora_plus is a ratio of two learning rates of its own Adam"),
        ({"submission": "lorra"}, "unknown submission 'lorra'; did you mean 'lora'"),
    ],
)
def test_what_cannot_be_an_adapter_is_said_at_planning(place: Path, adapter: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trials(place, "fira", adapter=adapter)


def test_an_adapter_that_matches_no_module_names_the_roles_there_are(place: Path) -> None:
    submission = hyperparameters.resolve(catalog.submission_class("lora"), {"matrices": ["attn.qkv"], "rank": 2})
    with pytest.raises(ValueError, match=r"the model has no linear module of these roles; it has attn\.k, attn\.o"):
        composition.model_of(submission, catalog.workload("commonsense_nano_adapters", overrides(place)), 0, "meta")


def test_a_frozen_base_needs_something_to_train(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"{key}={json.dumps(value)}" for key, value in overrides(place).items()]
    assert cli.main(["run", "adam", "--workload", "commonsense_nano_adapters", "--quiet", "--override", *given]) == 2
    assert "commonsense_nano_adapters" in (said := capsys.readouterr().err)
    assert "freezes its base, and Adam adds nothing to train: put it on an adapter (--adapter lora rank=32" in said


def test_the_hooks_of_both_run_in_order(place: Path) -> None:
    calls: list[str] = []

    class Told(Submission):
        def after_step(self, training: Training) -> None:
            calls.append("optimizer")

    peft_like = composition.combined(copy.copy(Told()), {"submission": "peft", "method": "lora", "rank": 2})
    training = Training(model=nn.Linear(1, 1), seed=0, steps=1)
    peft_like.after_step(training)
    assert calls == ["optimizer"]
    assert isinstance(peft_like, Told)


def test_the_command_line_says_what_fits_on_a_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["memory", "--workload", "commonsense_llama7b_adapters", "--submissions", "lora", "--set", "rank=32", "state_dtype=bf16"]
    assert cli.main([*common, "--card", "24GB", "--override", "checkpointing=true", "--csv", str(tmp_path / "out.csv")]) == 0
    out = capsys.readouterr().out
    assert "fits 24GB" in out
    assert next(line for line in out.splitlines() if line.startswith("lora ")).endswith("yes")
    assert (tmp_path / "out.csv").read_text().splitlines()[0].endswith("fits")
    assert cli.main([*common, "--card", "12GB"]) == 0
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("lora ")).endswith("no")
    assert cli.main([*common, "--card", "big"]) == 2
    assert "--card big: expected a size such as 24GB" in capsys.readouterr().err


def test_a_prediction_refuses_what_a_run_would(place: Path) -> None:
    whole = catalog.workload("commonsense_nano_full", overrides(place, layerwise=True))
    lisa, galore = (
        hyperparameters.resolve(catalog.submission_class(name), {"rank": 2} if name == "galore" else {}) for name in ("lisa", "galore")
    )
    with pytest.raises(ValueError, match=r"layerwise = true: Lisa does its own work in before_step"):
        memory.predict(lisa, whole)
    at_once = memory.predict(galore, catalog.workload("commonsense_nano_full", overrides(place)))
    apart = memory.predict(galore, whole)
    assert apart["gradients"] < at_once["gradients"]
    assert apart["state"] == at_once["state"]


def test_a_trial_too_large_for_the_card_is_refused_with_lighter_settings(place: Path) -> None:
    (trial,) = trials(place, "lora", set={"rank": 2})
    cards.check(trial, 2**34, "large card")
    with pytest.raises(ValueError, match=r"lora on .* needs .*activations .*tiny card has 1\.00 GiB.*checkpointing=true layerwise=true"):
        cards.check(trial, 2**30, "tiny card")
