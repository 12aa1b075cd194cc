"""A workload and submissions in files, as a user would bring them: material for tests of planning. Nothing here trains."""

from __future__ import annotations

from pathlib import Path

from runner.trial import Trial

WORKLOAD = """
from dataclasses import dataclass

from workloads.base import Batch, Budget, Target, Workload


@dataclass(frozen=True, kw_only=True)
class Paper(Workload):
    data: str = "own"

    def build(self, seed, device): ...
    def open_data(self): ...
    def loss(self, model, batch): ...
    def evaluate(self, model, data, device): ...
    def example(self, device): ...


small = Paper(
    name="small", batch=Batch(sequences=2, length=8), budget=Budget(steps=100, seconds=60.0),
    target=Target(metric="val_loss", value=2.0), evaluate_every=10, hardware="cpu",
)
WORKLOADS = (small,)
"""

SUBMISSION = """
from dataclasses import dataclass
from typing import Literal

from submissions.base import MatrixSubmission, require


@dataclass(frozen=True, kw_only=True)
class Idea(MatrixSubmission):
    rank: int = 8
    limiter: Literal["none", "growth"] = "none"
    betas: tuple[float, float] = (0.9, 0.999)
    nesterov: bool = False
    floor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank > 0, "rank", self.rank, "at least 1")

    def init(self, W_bmn):
        return {}

    def update(self, G_bmn, state, t):
        return G_bmn.sign(), {}
"""


def files(folder: Path) -> None:
    """Writes `paper.py` (a workload) and `idea.py` (a submission)."""
    (folder / "paper.py").write_text(WORKLOAD)
    (folder / "idea.py").write_text(SUBMISSION)


def trial(seed: int = 0, *, study: str = "s", lr: float = 0.1) -> Trial:
    """A trial of names that nobody looks up."""
    return Trial(study=study, workload="small", submission="idea", hyperparameters={"lr": lr}, seed=seed)
