"""Write a small working submission to start from: sign momentum, in one file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

TEMPLATE = '''"""{title}: the sign of a momentum of the gradient (Bernstein et al. 2018, arXiv 1802.04434)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from submissions.base import MatrixSubmission, Probes, State, require


@dataclass(frozen=True, kw_only=True)
class {name}(MatrixSubmission):
    lr: float = 1e-3
    """Peak learning rate."""
    beta: float = 0.9
    """Decay rate of the momentum, in [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta < 1, "beta", self.beta, "a decay rate in [0, 1)")

    def init(self, W_bmn: Tensor) -> State:
        return {{"M": torch.zeros_like(W_bmn)}}

    def update(self, G_bmn: Tensor, state: State, t: int) -> tuple[Tensor, Probes]:
        state["M"].lerp_(G_bmn, 1 - self.beta)
        return state["M"].sign(), {{}}
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the Python file to write, such as my_optimizer.py")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")


def main(args: argparse.Namespace) -> int:
    path: Path = args.file
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path}: expected a file name that is a Python name with .py, such as my_optimizer.py")
    if path.exists() and not args.force:
        raise ValueError(f"{path} exists; choose another name, or --force to overwrite it")
    name = "".join(word.capitalize() for word in re.split(r"_+", path.stem))
    path.write_text(TEMPLATE.format(name=name, title=path.stem.replace("_", " ").capitalize()), encoding="utf-8")
    print(f"wrote {path}; next: slimperf check {path}")
    return 0
