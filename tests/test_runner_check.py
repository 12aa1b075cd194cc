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
