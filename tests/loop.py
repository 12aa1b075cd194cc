"""A small LLaMA and the training loop around a submission's hooks, short enough to see every tensor of."""

from __future__ import annotations

import io
import math
from typing import Any

import torch
from torch import Tensor, nn

from submissions import holdings
from submissions.base import Submission, Training
from workloads.architecture import Architecture
from workloads.llama import Llama, initialise, summed_loss

HIDDEN, MLP, LAYERS, VOCAB, LENGTH = 16, 24, 4, 32, 8
SHAPES = {"attn.q": (HIDDEN, HIDDEN), "mlp.up": (MLP, HIDDEN), "mlp.down": (HIDDEN, MLP)}


def small_llama(seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Llama:
    """Four layers with square, tall and wide matrices."""
    with torch.device(device):
        model = Llama(Architecture(hidden=HIDDEN, mlp=MLP, layers=LAYERS, heads=2, vocab=VOCAB, init="fan_in"), positions=LENGTH)
    initialise(model, seed)
    return model.to(dtype)


def tokens(step: int) -> Tensor:
    """Four sequences of a fixed pattern with noise, a function of the step."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (4, 1), generator=generator)
    noise = torch.randint(0, 2, (4, LENGTH + 1), generator=generator)
    return (start + 3 * torch.arange(LENGTH + 1) + noise) % VOCAB


def loss_of(model: nn.Module, step: int) -> Tensor:
    tokens_bt = tokens(step)
    return summed_loss(model(tokens_bt[:, :-1]), tokens_bt[:, 1:]) / tokens_bt[:, 1:].numel()


class Loop:
    """A submission in training, in the order of the hooks."""

    def __init__(self, submission: Submission, *, seed: int = 0, steps: int = 40, dtype: torch.dtype = torch.float32) -> None:
        self.submission = submission
        model = submission.wrap(small_llama(seed, dtype), seed)
        self.training = Training(model=model, seed=seed, steps=steps, optimizers=submission.optimizers(model, seed))
        self.training.backward = self.backward
        self.training.loss = lambda step: loss_of(self.training.model, step).detach()
        submission.begin(self.training)

    @property
    def model(self) -> Any:
        return self.training.model

    def backward(self, step: int) -> Tensor:
        loss = loss_of(self.training.model, step)
        loss.backward()
        return loss.detach()

    def run(self, updates: int) -> list[float]:
        """The loss before each of the next updates."""
        losses = []
        for _ in range(updates):
            training = self.training
            training.t += 1
            self.submission.before_step(training)
            training.model.zero_grad(set_to_none=True)
            losses.append(float(self.submission.train_step(training, training.t)))
            for optimizer in training.optimizers:
                for group in optimizer.param_groups:
                    peak = group.setdefault("initial_lr", group["lr"])
                    group["lr"] = peak * self.submission.lr_factor(training.t, training.steps)
                optimizer.step()
            self.submission.after_step(training)
        return losses

    def checkpoint(self) -> dict[str, Any]:
        """What a runner keeps, through a file."""
        training, file = self.training, io.BytesIO()
        optimizers = [optimizer.state_dict() for optimizer in training.optimizers]
        torch.save({"t": training.t, "model": training.model.state_dict(), "optimizers": optimizers, "state": training.state}, file)
        file.seek(0)
        content: dict[str, Any] = torch.load(file, weights_only=True)
        return content

    @classmethod
    def resumed(cls, submission: Submission, content: dict[str, Any], **options: Any) -> Loop:
        """A new process's loop, from a checkpoint."""
        loop = cls(submission, **options)
        loop.training.t = content["t"]
        submission.restore(loop.training)
        loop.training.model.load_state_dict(content["model"])
        for optimizer, state in zip(loop.training.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        loop.training.state = content["state"]
        return loop

    def state_elements(self) -> float:
        """State in elements of 4 bytes."""
        tensors = [tensor for optimizer in self.training.optimizers for tensor in holdings.state_tensors(optimizer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors, *self.training.state.values()]) / 4


def assert_resumes(submission: Submission, *, before: int, after: int, **options: Any) -> None:
    """A kill after `before` updates leaves no trace in the losses and weights of the next `after`."""
    whole = Loop(submission, **options)
    whole.run(before)
    content = whole.checkpoint()
    expected = whole.run(after)
    torch.manual_seed(999)  # nothing may depend on the global generator
    again = Loop.resumed(submission, content, **options)
    assert again.run(after) == expected
    weights = again.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def assert_learns(submission: Submission, *, by: float = 0.3, steps: int = 60) -> None:
    """The loss falls by at least `by` nats from its first five to its last five updates."""
    losses = Loop(submission, steps=steps).run(steps)
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < first - by, f"loss went from {first:.3f} to {last:.3f}"


def factor_elements(submission: Submission, rank: int, role: str) -> float:
    """State of one matrix's factors according to the declared formula."""
    rows, columns = SHAPES[role]
    names = {**vars(submission), "m": min(rows, columns), "n": max(rows, columns), "rows": rows, "columns": columns, "role": role}
    return float(eval(submission.memory, {"__builtins__": {}}, names | {"rank": rank, "layers": LAYERS, "ceil": math.ceil}))
