"""What only a GPU can show: the same training as on a CPU, no waiting for the device, the predicted memory.

make gpu
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from runner import catalog, composition, hyperparameters, memory, record, train
from runner.attempt import Attempt
from runner.trial import Trial
from submissions import engine
from submissions.base import MatrixSubmission

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a torch that can use it"),
]

STEPS = 8
TINY = {"steps": STEPS, "evaluate_every": 4, "batch.sequences": 4, "batch.length": 64, "validation_tokens": 256, "model.layers": 2}
SMALL: dict[str, Any] = {"rank": 8, "gap": 5, "frequency": 5, "members": 4}
ON_THE_HOT_PATH = ("adam", "fira", "galore", "apollo", "apollo_mini", "muon")


def trial_of(name: str, **overrides: Any) -> Trial:
    cls = catalog.submission_class(name)
    values = hyperparameters.defaults(name, "llama_nano")
    values |= {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__ and isinstance(value, int)}
    chosen = hyperparameters.values(hyperparameters.resolve(cls, values))
    return Trial(
        study="gpu", workload="llama_nano", overrides=TINY | overrides, submission=name, hyperparameters=chosen, seed=1, stop="budget"
    )


def losses(results: Path, trial: Trial, device: str, **options: Any) -> tuple[list[float], record.End]:
    """Training losses by step over all attempts, and the last end."""
    train.execute(trial, results, device=device, **options)
    found: dict[int, float] = {}
    for path in record.attempts(results / trial.study, trial.id):
        *lines, end = record.lines(path)
        found |= {line.step: line.value for line in lines if isinstance(line, record.Point) and line.name == "train_loss"}
    assert isinstance(end, record.End)
    assert end.traceback is None, end.traceback
    return list(found.values()), end


@pytest.mark.parametrize("name", [name for name in catalog.submission_names() if name != "eggroll"])
def test_every_submission_trains_as_on_a_cpu(name: str, tmp_path: Path) -> None:
    """Up to rounding, and to other draws where it makes random numbers on the device."""
    there, end = losses(tmp_path / "gpu", trial_of(name), "cuda")
    here, _ = losses(tmp_path / "cpu", trial_of(name), "cpu")
    assert end.status in ("missed", "reached")
    assert there[0] == pytest.approx(here[0], rel=1e-4)
    assert there == pytest.approx(here, rel=0.1)


@pytest.mark.parametrize("name", ON_THE_HOT_PATH)
def test_a_stopped_trial_goes_on(name: str, tmp_path: Path) -> None:
    whole, _ = losses(tmp_path / "whole", trial_of(name), "cuda")
    asked = iter([False, False, True])
    losses(tmp_path / "parts", trial_of(name), "cuda", interrupted=lambda: next(asked, False), checkpoint_seconds=0.0)
    parts, _ = losses(tmp_path / "parts", trial_of(name), "cuda")
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("name", ON_THE_HOT_PATH)
def test_no_step_between_two_measurements_waits_for_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_sync_debug_mode` makes torch refuse whatever would wait."""
    step, refused = Attempt.step, []

    def watched(self: Attempt) -> None:
        ready = self.training.t + 1 not in (1, 6)  # states, constants and bases are made there
        torch.cuda.set_sync_debug_mode("error" if ready else "default")
        try:
            step(self)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        refused.append(ready)

    monkeypatch.setattr(Attempt, "step", watched)
    losses(tmp_path, trial_of(name), "cuda")
    assert sum(refused) == STEPS - 2


@pytest.mark.parametrize("name", [name for name in ON_THE_HOT_PATH if name != "adam"])
def test_more_layers_cost_no_more_kernels(name: str) -> None:
    counts = []
    for layers in (2, 6):
        cls = catalog.submission_class(name)
        rule = cls(**{key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__})
        assert isinstance(rule, MatrixSubmission)
        members = [engine.Named(str(number), nn.Parameter(torch.randn(96, 160, device="cuda"))) for number in range(layers)]
        optimizer = engine.MatrixOptimizer(rule, members, lr=1e-3, seed=0)
        for number in range(3):
            for member in members:
                member.parameter.grad = torch.randn_like(member.parameter)
            if number < 2:
                optimizer.step()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
            optimizer.step()
            torch.cuda.synchronize()
        counts.append(sum(event.count for event in traced.key_averages() if event.key == "cudaLaunchKernel"))
    assert counts[0] > 0
    assert counts[1] <= counts[0] + 4, "the lists of a foreach may be cut into one launch more"


@pytest.mark.parametrize("name", ON_THE_HOT_PATH)
def test_predicted_memory_is_the_measured_one(name: str, tmp_path: Path) -> None:
    sizes = {"model.hidden": 512, "model.mlp": 1376, "model.layers": 8, "model.heads": 8, "batch.sequences": 32, "batch.length": 256}
    trial = trial_of(name, **sizes)
    predicted = memory.predict(composition.submission_of(trial), catalog.workload(trial.workload, trial.overrides))
    _, end = losses(tmp_path, trial, "cuda")
    assert end.bytes["peak"] == pytest.approx(predicted["peak"], rel=0.05)
    for part in ("weights", "gradients", "state"):
        assert end.bytes[part] == predicted[part]


def test_the_parts_of_the_clock_are_the_total(tmp_path: Path) -> None:
    _, end = losses(tmp_path, trial_of("fira"), "cuda")
    parts = {name: value for name, value in end.seconds.items() if not name.startswith("off.") and name not in ("total", "cpu")}
    assert math.fsum(parts.values()) == pytest.approx(end.seconds["total"], rel=0.01)
    assert parts["forward_backward"] > 0
    assert parts["refresh"] > 0
