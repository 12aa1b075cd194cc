"""An optimizer on an adapter: `wrap` of one submission, the update rules of another.

    adapter: {submission: lora, rank: 32, alpha: 64}      # in a study; on the command line: --adapter lora rank=32 alpha=64

An adapter's factors lie inside the roles of their matrices (`attn.q.lora_a`), so a rule that names `attn.q` treats them. The adapter's
learning rate and Adam do not act: those of the optimizer do.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from runner import catalog, hyperparameters, layerwise
from submissions import engine
from submissions.adapters import AdapterSubmission
from submissions.base import Submission, Training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from runner.trial import Trial
    from workloads.base import Workload

IDLE = {field.name for field in dataclasses.fields(AdapterSubmission)} - {"matrices", "rest"}
"""Hyperparameters of an adapter that say how it is optimised."""


def submission_of(trial: Trial) -> Submission:
    """What a trial trains with: its submission, on its adapter if it has one.

    Raises:
        ValueError: a hyperparameter is wrong, or the two do not go together.
    """
    own = hyperparameters.resolve(catalog.submission_class(trial.submission), trial.hyperparameters)
    return combined(own, trial.adapter) if trial.adapter else own


def resolved(given: dict[str, Any], *workloads: str | None) -> dict[str, Any]:
    """The adapter with all hyperparameters that shape it, as a trial keeps it; empty if none was asked for.

    Raises:
        ValueError: an unknown adapter or hyperparameter, or one that is the optimizer's.
    """
    if not given:
        return {}
    values = dict(given)
    name = values.pop("submission", None)
    cls = adapter_class(name)
    if idle := sorted(IDLE & values.keys()):
        raise ValueError(f"adapter: {idle[0]}: the optimizer decides it; set it there")
    layers = {key: value for key, value in hyperparameters.defaults(str(name), *workloads).items() if key not in IDLE}
    adapter = hyperparameters.resolve(cls, {**layers, **values})
    assert isinstance(adapter, AdapterSubmission)
    if (why := adapter.bound()) is not None:
        raise ValueError(f"adapter: {name}: {why} of its own Adam; run {name} as the submission, or take another method")
    found = hyperparameters.values(adapter)
    return {"submission": name, **{key: value for key, value in found.items() if key not in IDLE}}


def adapter_class(name: Any) -> type[AdapterSubmission]:
    """The class of an adapter.

    Raises:
        ValueError: there is none of that name, or its method includes its optimizer.
    """
    if not isinstance(name, str):
        raise ValueError(f"adapter: submission = {name!r}: expected the name of an adapter, such as {{submission: lora, rank: 32}}")
    cls = catalog.submission_class(name)
    if not issubclass(cls, AdapterSubmission):
        known = [other for other in ("lora", "peft", "bottleneck") if other in catalog.submission_names()]
        raise ValueError(f"adapter: {name} adds no factors to a model; expected an adapter, such as {', '.join(known)}")
    if cls.lr_factor is not Submission.lr_factor:
        raise ValueError(f"adapter: {name} brings a schedule that restarts its own Adam; it cannot be optimised by another submission")
    return cls


def combined(optimizer: Submission, adapter: dict[str, Any]) -> Submission:
    """The optimizer's submission on an adapted model: its fields and type, and the adapter's hooks around its own.

    Raises:
        ValueError: both change the model, or both compute the gradient.
    """
    values = {key: value for key, value in adapter.items() if key != "submission"}
    inner = hyperparameters.resolve(adapter_class(adapter["submission"]), values)
    own = type(optimizer)
    for hook in ("wrap", "train_step"):
        if getattr(own, hook) is not getattr(Submission, hook) and getattr(type(inner), hook) is not getattr(Submission, hook):
            raise ValueError(f"{own.__name__} and the adapter {adapter['submission']} both define {hook}(); run them apart")
    names = [
        hook for hook in ("begin", "before_step", "after_step", "restore") if getattr(type(inner), hook) is not getattr(Submission, hook)
    ]
    hooks: dict[str, Any] = {hook: functools.partialmethod(_both, hook, inner) for hook in names}
    if type(inner).train_step is not Submission.train_step:
        hooks["train_step"] = lambda self, training, batch: inner.train_step(training, batch)
    hooks["wrap"] = lambda self, model, seed: inner.wrap(model, seed)
    joined = type(own.__name__, (own,), {**hooks, "__module__": own.__module__})
    found: Submission = joined(**{field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)})
    return found


def model_of(submission: Submission, workload: Workload, seed: int, device: torch.device | str) -> nn.Module:
    """The workload's model as the submission trains it.

    Raises:
        ValueError: nothing of it is trained.
    """
    model = submission.wrap(workload.build(seed, device), seed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{workload.name} freezes its base, and {type(submission).__name__} adds nothing to train: put it on an adapter "
            "(--adapter lora rank=32; in a study, adapter: {submission: lora}), or take the workload that trains every weight"
        )
    return model


def optimizers_of(submission: Submission, workload: Workload, model: nn.Module, seed: int) -> list[Optimizer]:
    """The submission's optimizers, made so that each parameter can be updated by itself if the workload is layerwise.

    Raises:
        ValueError: the step of one expects an argument that nobody gives it, or all gradients where the workload is layerwise.
    """
    alone = engine.ALONE.set(workload.layerwise)
    try:
        found = submission.optimizers(model, seed)
    finally:
        engine.ALONE.reset(alone)
    if not isinstance(found, list | tuple) or not all(isinstance(optimizer, Optimizer) for optimizer in found):
        raise ValueError(f"{type(submission).__name__}.optimizers() returned {found!r:.80}: expected a list of optimizers")
    for optimizer in found:
        _, *expected = inspect.signature(type(optimizer).step).parameters.items()  # a scheduler of torch wraps the object's own
        for name, parameter in expected:
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                raise ValueError(
                    f"{type(optimizer).__name__}.step() expects {name}, and is called without arguments: override train_step(self,"
                    " training, batch), which may call training.backward(batch) as often as it needs, and let step() apply what that found"
                )
    if workload.layerwise:
        layerwise.check_optimizers(found)
    return found


def _both(self: Submission, hook: str, inner: Submission, training: Training) -> None:
    """The adapter's hook and the optimizer's: the adapter first, except after a step."""
    own = getattr(super(type(self), self), hook)
    calls = [own, getattr(inner, hook)] if hook == "after_step" else [getattr(inner, hook), own]
    for call in calls:
        call(training)
