"""A compiled trial is the same training: its values, its checkpoints, its hooks; and what compiling took stands apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import in_child, story

from runner import catalog, checkpoint, compilation, hyperparameters, record, train
from runner.clock import Clock
from runner.trial import Trial

TINY = {
    "steps": 6,
    "evaluate_every": 3,
    "batch.sequences": 2,
    "batch.length": 16,
    "validation_tokens": 64,
    "model.layers": 4,
    "model.hidden": 32,
    "model.mlp": 48,
}
SMALL = {"rank": 8, "gap": 2, "growth": 2, "grow_at": 0.5}


@pytest.fixture(autouse=True)
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced and differentiated as ever, and then run by torch: the values are those of the plain model, bit for bit."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")


def trial_of(name: str = "adam", **overrides: Any) -> Trial:
    cls = catalog.submission_class(name)
    few = {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__}
    return Trial(
        study="compiled",
        workload="llama_nano",
        overrides=TINY | overrides,
        submission=name,
        hyperparameters=hyperparameters.values(hyperparameters.resolve(cls, few)),
        seed=1,
        stop="budget",
        probes_every=2,
    )


def run(results: Path, trial: Trial, **options: Any) -> tuple[record.Start, record.End]:
    status = train.execute(trial, results, **options)
    start, *_, end = record.lines(record.attempts(results / trial.study, trial.id)[-1])
    assert isinstance(start, record.Start)
    assert isinstance(end, record.End)
    assert status in ("missed", "preempted"), end.traceback
    return start, end


def test_the_record_says_what_compiling_took(tmp_path: Path) -> None:
    start, end = run(tmp_path, trial_of(compile=True, steps=2))
    assert start.settings["compile"] is True
    assert 0 < end.seconds["compile"] < end.seconds["total"]
    parts = {name: seconds for name, seconds in end.seconds.items() if not name.startswith("off.") and name not in ("total", "cpu")}
    assert sum(parts.values()) == pytest.approx(end.seconds["total"], rel=1e-6)
    assert "activations" not in end.bytes, "what compiled code keeps was not measured"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("fira", {"loss_chunk": 12}),
        ("galore", {"layerwise": True, "checkpointing": True}),
        ("lora", {}),
        ("lisa", {}),
        ("g_stack", {}),
    ],
)
def test_a_compiled_trial_tells_the_same_story(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    """Updates inside the backward pass, probes, frozen layers and layers that are added later among it."""
    plain, compiled = trial_of(name, **how), trial_of(name, **how, compile=True)
    run(tmp_path, plain)
    run(tmp_path, compiled)
    assert story(tmp_path / "compiled", plain.id) == story(tmp_path / "compiled", compiled.id)


def test_an_interrupted_trial_goes_on_compiled_or_not(tmp_path: Path) -> None:
    trial = trial_of("fira", compile=True)

    def stopped() -> None:
        asked = iter([False, False, True])
        run(tmp_path / "broken", trial, interrupted=lambda: next(asked))

    assert in_child(stopped) == 0
    saved = checkpoint.load(checkpoint.path_of(tmp_path / "broken" / "compiled", trial), torch.device("cpu"))
    assert saved is not None
    names = [name for name, _ in catalog.workload(trial.workload, trial.overrides).build(0, "cpu").named_parameters()]
    assert sorted(saved["model"]) == sorted(names)
    start, _ = run(tmp_path / "broken", trial)
    assert start.resumed_step == 3
    run(tmp_path / "whole", trial)
    assert story(tmp_path / "whole" / "compiled", trial.id) == story(tmp_path / "broken" / "compiled", trial.id)


def test_equal_layers_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def counted(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", counted)
    workload = catalog.workload("llama_nano", TINY)
    model = workload.build(0, "cpu")
    with compilation.timed(Clock(torch.device("cpu"))):
        compilation.cover(workload.compilable(model))
        for _ in range(2):
            workload.loss(model, workload.example("cpu"))[0].backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert len(model.layers) == 4
    assert len(graphs) == 2, "of the layers and of the loss"


def test_the_cache_is_the_trial_s_own_and_what_was_there_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with compilation.timed(Clock(torch.device("cpu"))):
        inside = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert not inside.exists() or not any(inside.iterdir())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere"
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not inside.parent.exists()


def test_evaluation_compiles_off_the_clock() -> None:
    clock = Clock(torch.device("cpu"))
    clock.start()
    with compilation.timed(clock):
        compiled = torch.compile(torch.sin, backend=compilation.BACKEND)
        with clock.part("off.evaluation"):
            compiled(torch.ones(2))
        assert "compile" not in clock.settle()
        compiled(torch.ones(2, requires_grad=True))
    assert clock.settle()["compile"] > 0


def test_compiling_changes_the_identity_of_a_workload_and_not_its_target() -> None:
    plain, compiled = (catalog.workload("llama_60m", changes) for changes in ({}, {"compile": True}))
    assert "compile" not in plain.spec()
    assert compiled.spec()["compile"] is True
    assert compiled.target == plain.target


@pytest.mark.slow
def test_generated_code_gives_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "inductor")
    losses = []
    for compile_ in (False, True):
        trial = trial_of("fira", compile=compile_)
        run(tmp_path, trial)
        points, _ = story(tmp_path / "compiled", trial.id)
        losses.append([value for _, name, _, value in points if name == "val_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
