"""Updates inside the backward pass, held against updates after it: every submission trains the same, or says why it cannot."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from loop import loss_of, small_llama
from torch import Tensor, nn
from torch.optim import Optimizer

from runner import catalog, composition, layerwise
from runner.devices import Group
from submissions import dense, engine
from submissions.base import MATRIX_ROLES, Submission
from submissions.galore import Galore

UPDATES = 4
SMALL: dict[str, Any] = {"rank": 4, "gap": 2, "kappa": 2, "frequency": 2, "min_8bit_size": 64, "clip": None}
"""Values that fit the model and let everything periodic happen within the updates, for the submissions that have the field."""
OF: dict[str, dict[str, Any]] = {"muon": {"ns_dtype": "fp32"}}
"""Beyond that, by name."""
OWN_OPTIMIZER = ("flora", "frugal", "lift", "q_galore", "schedule_free")
"""Their optimizers count updates or choose blocks, or do something to the weights around the update."""


def small(name: str) -> Submission:
    cls = catalog.submission_class(name)
    fitting = {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__}
    return cls(**fitting | OF.get(name, {}))


def weights_after(submission: Submission, *, inside: bool) -> dict[str, Tensor]:
    """The weights after a few updates inside or after the backward pass; in fp64, where a stack rounds as its matrices do."""
    model = submission.wrap(small_llama(dtype=torch.float64), 0)
    alone = engine.ALONE.set(inside)
    optimizers = submission.optimizers(model, 0)
    engine.ALONE.reset(alone)
    if inside:
        layerwise.check_optimizers(optimizers)
        layerwise.install(optimizers, Group(), lambda name: contextlib.nullcontext())
    for t in range(1, UPDATES + 1):
        if inside:
            layerwise.begin(optimizers)
        loss_of(model, t).backward()  # type: ignore[no-untyped-call]  # torch's own
        if not inside:
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
        assert all(parameter.grad is None for parameter in model.parameters())
    return model.state_dict()


@pytest.mark.parametrize("name", catalog.submission_names())
def test_it_trains_the_same_or_is_refused_with_its_reason(name: str) -> None:
    submission = small(name)
    try:
        layerwise.check(catalog.workload("llama_nano"), submission)
    except ValueError as error:
        (hook,) = re.findall(r"^layerwise = true: \w+ does its own work in (\w+)\(\)", str(error))
        assert getattr(type(submission), hook) is not getattr(Submission, hook)
        assert name not in OWN_OPTIMIZER
        return
    after = weights_after(submission, inside=False)
    for key, value in weights_after(submission, inside=True).items():
        torch.testing.assert_close(value, after[key], rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


class EachStep(engine.MatrixOptimizer):
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # as the engine's
        super().step()
        torch._foreach_mul_([parameter for stack in self.stacks for parameter in stack.parameters], 0.9)


class Counting(dense.ByParameter):
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # as its base's
        self.advance()
        self.apply()
        self.advance()


class Foreign(Optimizer):
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # as above
        self.param_groups[0]["t"] += 1


class Renamed(torch.optim.AdamW):
    """torch's step."""


def of_matrices(model: nn.Module, kind: type[engine.MatrixOptimizer], **options: Any) -> Optimizer:
    return kind(Galore(rank=4), dense.split(model, MATRIX_ROLES)[0], lr=1e-3, seed=0, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda model: of_matrices(model, EachStep, stacked=False),
            r"EachStep does its own work in step\(\).*in apply\(stacks\)",
        ),
        (lambda model: of_matrices(model, engine.MatrixOptimizer, stacked=True), "stacks matrices"),
        (lambda model: Counting(model.parameters(), {"lr": 1.0}), r"Counting does its own work in step\(\).*where there is a gradient"),
        (lambda model: Foreign(model.parameters(), {"lr": 1.0, "t": 0}), r"Foreign has a step\(\) that may count its calls.*ByParameter"),
        (lambda model: torch.optim.LBFGS(model.parameters()), "LBFGS has a step"),
    ],
)
def test_an_optimizer_that_may_need_all_gradients_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^layerwise = true: .*{words}.*, or set it to false$"):
        layerwise.check_optimizers([make(small_llama())])


@dataclass(frozen=True, kw_only=True)
class Outside(Submission):
    def optimizers(self, model: nn.Module, seed: int) -> list[Optimizer]:
        return [Foreign(model.parameters(), {"lr": self.lr, "t": 0})]


def test_it_is_refused_before_a_trial_begins() -> None:
    workload = catalog.workload("llama_nano", {"layerwise": True})
    with pytest.raises(ValueError, match="layerwise = true: Foreign has a step"):
        composition.optimizers_of(Outside(), workload, small_llama(), 0)
    whole = catalog.workload("llama_nano")
    assert len(composition.optimizers_of(Outside(), whole, small_llama(), 0)) == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, Renamed])
def test_an_optimizer_of_torch_treats_each_parameter_by_itself(kind: Any) -> None:
    layerwise.check_optimizers([kind(small_llama().parameters(), lr=1e-3)])
