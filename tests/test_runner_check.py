"""`slimperf check`: a submission that keeps the contract, and one for each way of breaking it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runner import check
from runner.commands import new

GOOD = new.TEMPLATE.format(name="Mine", title="Mine")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def findings(folder: Path, text: str) -> list[check.Finding]:
    path = folder / "mine.py"
    path.write_text(text)
    return list(check.contract(check.trial_of(str(path), {})))


def test_the_template_keeps_the_contract(tmp_path: Path) -> None:
    found = findings(tmp_path, GOOD)
    assert [finding.problem for finding in found] == [None] * 5
    assert "state" in found[-1].note


UPDATE = 'state["M"].sign(), {}'
WRONG = {
    "NaN after a zero gradient": (UPDATE, "G_bmn / G_bmn.norm(dim=(-2, -1), keepdim=True), {}", "NaN or infinite weights after a zero"),
    "wrong shape": (UPDATE, 'state["M"].sign().mT[:, :1], {}', "update returned shape"),
    "only a direction": (UPDATE, 'state["M"].sign()', "Mine.update must return (U_bmn, probes), got Tensor"),
    "nothing for a direction": (UPDATE, "None, {}", "Mine.update must return (U_bmn, probes), got (None, dict)"),
    "a number for a probe": (UPDATE, 'G_bmn, {"angle": 1.0}', "probe 'angle' of layers.0.attn.q.weight is a float: expected a tensor"),
    "a probe of the whole stack": (UPDATE, 'G_bmn, {"angle": G_bmn.norm()}', "is of shape (): expected a tensor whose first axis is 4"),
    "a probe with too many axes": (UPDATE, 'G_bmn, {"angle": G_bmn}', "with at most one more axis"),
    "raises": (UPDATE, 'state["missing"], {}', "KeyError: 'missing' (mine.py:27)"),
    "hidden memory": (UPDATE, "G_bmn.sign() / (COUNT.append(t) or len(COUNT)), {}", "a second run with the same seed has other weights"),
    "forgets a parameter": (
        "    def init(",
        "    def optimizers(self, model, seed):\n        return super().optimizers(model, seed)[:1]\n\n    def init(",
        "forgets",
    ),
    "state that grows": (
        'state["M"].lerp_(G_bmn, 1 - self.beta)',
        'state["M"] = G_bmn.clone()\n        state["late"] = G_bmn.clone()',
        "make every tensor in init, in its final shape",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_submission_is_told_what_is_wrong(tmp_path: Path, case: str) -> None:
    old, new_, message = WRONG[case]
    text = GOOD.replace("import torch\n", "import torch\n\nCOUNT: list[int] = []\n", 1) if "COUNT" in new_ else GOOD
    assert old in text
    problems = [finding.problem for finding in findings(tmp_path, text.replace(old, new_)) if finding.problem]
    assert any(message in problem for problem in problems), problems


def test_the_step_seed_makes_global_randomness_repeat(tmp_path: Path) -> None:
    """The runner seeds torch's global generator at every step, so even a careless submission repeats."""
    assert all(finding.problem is None for finding in findings(tmp_path, GOOD.replace(UPDATE, "torch.rand_like(G_bmn), {}")))


AVERAGE = """
from dataclasses import dataclass

import torch

from submissions.base import Submission, named_roles


@dataclass(frozen=True, kw_only=True)
class Average(Submission):
    def optimizers(self, model, seed):
        return [torch.optim.SGD([p for _, _, p in named_roles(model)], lr=self.lr)]

    def begin(self, training):
        training.state.update({name: p.detach().clone() for name, p in training.model.named_parameters()})

    @torch.no_grad()
    def after_step(self, training):
        for name, p in training.model.named_parameters():
            training.state.setdefault(name, p.clone()).lerp_(p, 0.1)
            p.copy_(training.state[name])
"""


def test_state_of_the_training_that_is_made_in_begin_keeps_the_contract(tmp_path: Path) -> None:
    found = findings(tmp_path, AVERAGE)
    assert [finding.problem for finding in found] == [None] * 5


def test_state_of_the_training_that_is_made_late_is_sent_to_begin(tmp_path: Path) -> None:
    found = findings(tmp_path, AVERAGE.replace("def begin(", "def never("))
    assert "make every tensor in begin (training.state)" in str(found[-1].problem)


def test_a_step_that_wants_a_closure_is_sent_to_train_step(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, AVERAGE.replace("optim.SGD", "optim.LBFGS"))
    assert "LBFGS.step() expects closure" in str(finding.problem)
    assert "override train_step(" in str(finding.problem)


VALUES = """

class Halting(torch.optim.SGD):
    def step(self, closure=None):
        if sum(p.grad.abs().sum() for p in self.param_groups[0]["params"]).item() > 0:
            super().step()
"""


def test_a_step_that_reads_values_keeps_the_contract_unpredicted(tmp_path: Path) -> None:
    text = AVERAGE.replace("\n\n@dataclass", f"{VALUES}\n\n@dataclass", 1).replace("torch.optim.SGD([", "Halting([")
    found = findings(tmp_path, text)
    assert [finding.problem for finding in found] == [None] * 5
    assert "cannot be predicted: Tensor.item() cannot be called on meta tensors" in found[-1].note
