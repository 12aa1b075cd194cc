"""The learning rate has one owner: a submission that changes it by itself is stopped, at once and with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from runner import catalog, check, rates, record, train

FILE = """
from dataclasses import dataclass

import torch

from submissions.base import Submission, named_roles


@dataclass(frozen=True, kw_only=True)
class Mine(Submission):
    clip: float | None = None

    def optimizers(self, model, seed):
        optimizer = torch.optim.AdamW([p for _, _, p in named_roles(model)], lr=self.lr)
        self.changes(optimizer)
        return [optimizer]

    def changes(self, optimizer):
        {body}
"""
UNCHANGED = "pass"
MADE_EARLY = (
    "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)\n        optimizer.register_step_post_hook(lambda *_: scheduler.step())"
)
MADE_LATE = "optimizer.register_step_post_hook(lambda *_: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5))"


def ended(folder: Path, body: str, **overrides: object) -> record.End:
    path = folder / "mine.py"
    path.write_text(FILE.format(body=body))
    catalog.forget(str(path))
    document = {**check.SMALL, **overrides}
    trial = next(
        check.expansion.trials_of(
            check.expansion.protocol({"study": "rates", "workload": check.WORKLOAD, "overrides": document, "stop": "budget"}),
            str(path), check.WORKLOAD, document, [check.expansion.Candidate({})], first_point=0,
        )
    )  # fmt: skip
    torch.set_num_threads(1)
    asked = iter([False, False, True])
    train.execute(trial, folder, interrupted=lambda: next(asked, False))
    if body == UNCHANGED:  # it was interrupted; a checkpoint has the rates of its last step
        train.execute(trial, folder)
    *_, end = record.lines(record.attempts(folder / trial.study, trial.id)[-1])
    assert isinstance(end, record.End)
    return end


@pytest.mark.parametrize(("body", "layerwise"), [(MADE_EARLY, False), (MADE_LATE, False), (MADE_LATE, True)])
def test_a_scheduler_in_a_submission_is_told_who_owns_the_rate(body: str, layerwise: bool, tmp_path: Path) -> None:
    end = ended(tmp_path, body, layerwise=layerwise)
    assert (end.status, end.step) == ("failed", 2), end.reason
    told = r"the learning rate of group 0 of AdamW is \S+, but \S+ was set: override lr_factor; the runner owns the learning rate"
    assert re.search(told, str(end.reason)), end.reason


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_resumed_trial_keeps_its_rates(layerwise: bool, tmp_path: Path) -> None:
    end = ended(tmp_path, UNCHANGED, layerwise=layerwise)
    assert (end.status, end.step) == ("missed", check.STEPS), end.reason


def test_groups_that_appear_later_and_tensors_are_followed() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([first], lr=torch.tensor(0.5), foreach=False)
    rates.assign([optimizer], 0.5)
    optimizer.add_param_group({"params": [second], "lr": 2.0})
    rates.assign([optimizer], 0.1)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])
    rates.assign([optimizer], float("nan"))
    rates.assign([optimizer], 0.1)
    optimizer.param_groups[1]["lr"] = 0.3
    with pytest.raises(ValueError, match=r"group 1 of AdamW is 0\.3, but 0\.2 was set"):
        rates.assign([optimizer], 0.1)


def test_a_scheduler_that_fills_a_tensor_in_place_is_noticed() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(1e-3))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    rates.assign([optimizer], 0.5)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(5e-4)
    optimizer.step()
    scheduler.step()
    with pytest.raises(ValueError, match="override lr_factor"):
        rates.assign([optimizer], 0.5)


def test_a_group_without_a_rate_is_named() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ValueError, match="group 0 of SGD has lr = None: expected a number"):
        rates.assign([optimizer], 1.0)
