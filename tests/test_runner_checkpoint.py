"""What a checkpoint can hold, how that is said as early as possible, and state of another package that is resumed exactly."""

from __future__ import annotations

import enum
import os
import signal
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kills import at_call, in_child, story
from torch import nn

from runner import attempt, catalog, checkpoint, record, study, train
from runner.trial import Trial
from submissions.base import Training

NESTED: dict[str, Any] = {"history": [1.0, {2, 3}, (None, True)], "tensors": [torch.ones(2), {"a": torch.zeros(())}]}
FINE = NESTED | {
    "plain": [1j, "text", b"bytes", 2**80, torch.float32, torch.device("cpu"), torch.Size([2]), OrderedDict(a=1), Counter("ab")]
}


class Projector:
    def __init__(self, held: object = None) -> None:
        self.held = held


class Color(enum.Enum):
    RED = 1


def training(**state: Any) -> Training:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [*last.parameters()]}, {"params": [*first.parameters()]}], lr=0.1)
    optimizer.state[first.weight].update(state)
    return Training(model=nn.Sequential(first, last), seed=0, steps=1, optimizers=[optimizer])


def test_numbers_texts_and_tensors_are_fine_however_deep() -> None:
    around: list[Any] = [1]
    around.append(around)
    checkpoint.check(training(**FINE, around=around))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Projector(), "Projector (of test_runner_checkpoint)"),
        (np.float64(1), "float64 (of numpy)"),
        (deque([1]), "deque (of collections)"),
        (defaultdict(list), "defaultdict (of collections)"),
        (Color.RED, "Color (of test_runner_checkpoint)"),
        (lambda: None, "function (of builtins)"),
        (torch.Generator(), "Generator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_the_name_of_its_parameter(value: object, kind: str) -> None:
    for state in ({"it": value}, {"list": [1, value]}, {"dict": {"a": {"b": value}}}):
        with pytest.raises(ValueError, match="which a checkpoint cannot hold: keep tensors and numbers") as caught:
            checkpoint.check(training(**state))
        assert str(caught.value).startswith(f"the state of 0.weight holds a {kind}")


def test_other_places_have_names_too() -> None:
    own = training()
    own.state["average"] = Projector()  # type: ignore[assignment]  # what is tested
    with pytest.raises(ValueError, match=r"^training\.state\['average'\] holds a Projector"):
        checkpoint.check(own)
    grouped = training()
    grouped.optimizers[0].param_groups[0]["rule"] = Projector()
    with pytest.raises(ValueError, match=r"^the state_dict\(\) of SGD holds a Projector"):
        checkpoint.check(grouped)


def test_a_registered_class_is_fine_as_long_as_what_it_holds_is() -> None:
    with torch.serialization.safe_globals([Projector]):
        checkpoint.check(training(it=Projector(torch.ones(2))))
        with pytest.raises(ValueError, match=r"register test_runner_checkpoint\.Color with torch\.serialization\.add_safe_globals"):
            checkpoint.check(training(it=Projector(Color.RED)))
    with pytest.raises(ValueError, match=r"register test_runner_checkpoint\.Projector with"):
        checkpoint.check(training(it=Projector(torch.ones(2))))


GALORE = """
from dataclasses import dataclass

import torch
from galore_torch import GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector

from submissions.base import MATRIX_ROLES, Submission, named_roles

torch.serialization.add_safe_globals([GaLoreProjector])


@dataclass(frozen=True, kw_only=True)
class Theirs(Submission):
    def optimizers(self, model, seed):
        matrices = [p for _, role, p in named_roles(model) if role in MATRIX_ROLES]
        rest = [p for _, role, p in named_roles(model) if role not in MATRIX_ROLES]
        projected = {"params": matrices, "rank": 8, "update_proj_gap": 5, "scale": 0.25, "proj_type": "std"}
        return [GaLoreAdamW([projected, {"params": rest}], lr=self.lr, no_deprecation_warning=True)]
"""


def trial_of(folder: Path, text: str) -> Trial:
    (folder / "theirs.py").write_text(text)
    small = {"model.layers": 1, "steps": 8, "evaluate_every": 4, "batch.sequences": 2, "batch.length": 32, "validation_tokens": 512}
    document = {"study": "s", "workload": "llama_nano", "overrides": small, "stop": "budget", "probes_every": 2}
    document["trials"] = [{"submission": "theirs.py"}]
    (found,) = study.trials(document, folder=folder)
    return found


def test_galore_torch_resumes_to_the_same_bits_once_its_projector_is_registered(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def run(results: Path, *, kill: int | None = None) -> None:
        trial = trial_of(tmp_path, GALORE)
        if kill is not None:
            at_call(attempt.Attempt, "step", kill, False)
        assert train.execute(trial, results, checkpoint_seconds=0.0) == "missed"

    assert in_child(lambda: run(whole)) == 0
    assert os.WTERMSIG(in_child(lambda: run(broken, kill=4))) == signal.SIGKILL
    assert in_child(lambda: run(broken)) == 0
    (path,) = (whole / "s").glob("*.jsonl")
    name = path.name.split(".")[0]
    assert story(broken / "s", name) == story(whole / "s", name)
    again = next(record.lines(record.path_of(broken / "s", name, 1)))
    assert isinstance(again, record.Start)
    assert again.resumed_step == 3


def test_a_state_that_cannot_be_kept_ends_the_trial_at_its_first_step(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, GALORE.replace("torch.serialization.add_safe_globals([GaLoreProjector])", ""))
    assert train.execute(trial, tmp_path / "out") == "failed"
    (path,) = record.attempts(tmp_path / "out" / "s", trial.id)
    *_, end = record.lines(path)
    assert isinstance(end, record.End)
    assert end.step == 1
    assert "the state of layers.0.attn.q.weight holds a GaLoreProjector" in str(end.reason)
    assert "register galore_torch.galore_projector.GaLoreProjector with torch.serialization.add_safe_globals([...])" in str(end.reason)


def test_an_unreadable_checkpoint_is_said(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, (catalog.folder("submissions") / "sgd.py").read_text())
    path = checkpoint.path_of(tmp_path / "out" / "s", trial)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match=r"the checkpoint .*\.pt cannot be read .*: the trial starts again from step 0"):
        assert train.execute(trial, tmp_path / "out") == "missed"


SCALAR = """
from dataclasses import dataclass

import torch
from torch import nn

from submissions.base import Submission, named_roles


@dataclass(frozen=True, kw_only=True)
class Gate(Submission):
    def wrap(self, model, seed):
        model.gate = nn.Parameter(torch.ones(()))
        return model

    def optimizers(self, model, seed):
        return [torch.optim.AdamW([p for _, _, p in named_roles(model)], lr=self.lr)]
"""


def end_of(folder: Path) -> record.End:
    trial = trial_of(folder, SCALAR)
    assert train.execute(trial, folder / "out") == "missed"
    *_, end = record.lines(record.attempts(folder / "out" / "s", trial.id)[-1])
    assert isinstance(end, record.End)
    return end


def test_a_parameter_without_axes_has_its_place_in_the_hash(tmp_path: Path) -> None:
    assert len(end_of(tmp_path).extra["weights_sha256"]) == 64


def test_an_end_is_written_whatever_cannot_be_measured_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: attempt.Attempt) -> dict[str, float]:
        raise NotImplementedError("no storage")

    monkeypatch.setattr(attempt.Attempt, "bytes", broken)
    end = end_of(tmp_path)
    assert (end.status, end.bytes, end.extra) == ("missed", {}, {"unmeasured": "NotImplementedError: no storage"})
