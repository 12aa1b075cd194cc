"""Makes the small models that fine-tuning on a CPU starts from: a recipe of `commonsense_bases`, trained once, kept as a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

from torch import nn

from runner import record, study, train
from workloads import commonsense_bases
from workloads.base import Workload
from workloads.checkpoints import save_checkpoint
from workloads.commonsense_bases import RECIPES
from workloads.llama import Llama


def make(name: str, *, threads: int = 1) -> Path:
    """The folder of the base, trained now if it is not there: `config.json`, `model.safetensors` and `recipe.json`.

    Raises:
        ValueError: there is no such recipe.
        RuntimeError: its training did not come to its end.
    """
    out = commonsense_bases.made_folder(name)
    if (out / "config.json").exists():
        return out
    recipe = RECIPES[name]
    entry = {"submission": recipe.submission, "set": dict(recipe.hyperparameters)}
    document = {"study": f"base-{name}", "workload": recipe.workload, "overrides": dict(recipe.overrides), "trials": [entry]}
    (trial,) = study.trials({**document, "seeds": [recipe.seed], "stop": "budget"}, folder=Path.cwd())
    beside = out.with_name(f".{out.name}.{os.getpid()}")

    def save(workload: Workload, model: nn.Module) -> None:
        assert isinstance(model, Llama)
        save_checkpoint(model, beside)

    status = train.execute(trial, beside / "records", threads=threads, fresh=True, save_model=save)
    (path,) = record.attempts(beside / "records" / trial.study, trial.id)
    lines = list(record.lines(path))
    if status not in ("reached", "missed"):
        shutil.rmtree(beside)
        raise RuntimeError(f"the training of base {name} ended {status}: {getattr(lines[-1], 'reason', None)}")
    losses = [line.value for line in lines if isinstance(line, record.Point) and line.name == "val_loss"]
    content = {**dataclasses.asdict(recipe), "trial": trial.id, "val_loss": losses[-1]}
    (beside / "recipe.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    beside.replace(out)
    return out
