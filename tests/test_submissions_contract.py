"""What every submission must do, found by name: a new file in `submissions/` is covered without an edit here.

The model is a real LLaMA decoder of four tiny layers whose matrices are square (attention), tall (gate, up) and wide (down), so that
submissions that wrap, freeze or grow the model are held to the same table as those that only have an optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from runner import catalog
from submissions import engine
from submissions.base import MATRIX_ROLES, MatrixSubmission, Probes, Submission, Training, named_roles
from workloads.architecture import Architecture
from workloads.llama import Llama, initialise, summed_loss

NAMES = catalog.submission_names()
WITH_STATE_DTYPE = [name for name in NAMES if "state_dtype" in catalog.submission_class(name).__dataclass_fields__]
BY_MATRIX = [name for name in NAMES if issubclass(catalog.submission_class(name), MatrixSubmission)]
SHAPE = Architecture(hidden=16, mlp=40, layers=4, heads=2, vocab=32, init="fan_in")
STEPS = 8
KILLS = (1, 3, 6)
"""Updates after which a run is killed."""
SMALL: dict[str, Any] = {"rank": 4, "gap": 3, "frequency": 3, "min_8bit_size": 256, "members": 4}
"""Values that fit the tiny model and let everything periodic happen within the eight steps, for the submissions that have the field."""
OF = {
    "frugal": {"split": "column"},  # the state of `block` moves from matrix to matrix
    "muon": {"ns_dtype": "fp32"},
    "owlore": {"gamma": 2},
}
"""Beyond that, by name."""


def small(name: str, **values: Any) -> Submission:
    cls = catalog.submission_class(name)
    fitting = {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__}
    return cls(**fitting | OF.get(name, {}) | values)


class Run:
    """The hooks of a submission called as the runner calls them, on batches that depend on the step alone."""

    def __init__(self, submission: Submission, *, seed: int = 0, t: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.submission = submission
        model = Llama(SHAPE, positions=12)
        initialise(model, seed)
        model = submission.wrap(model.to(dtype), seed)
        self.silent = False
        self.training = Training(
            model, seed, STEPS, t=t, optimizers=submission.optimizers(model, seed), backward=self.backward, loss=self.loss
        )
        submission.begin(self.training)
        if t:
            submission.restore(self.training)

    def batch(self) -> Tensor:
        return torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(self.training.t))

    def backward(self, batch: Tensor) -> Tensor:
        loss = summed_loss(self.training.model(batch), batch.roll(-1, 1)) / batch.numel()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        if self.silent:
            for parameter in self.training.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        return loss.detach()

    @torch.no_grad()
    def loss(self, batch: Tensor) -> Tensor:
        loss = summed_loss(self.training.model(batch), batch.roll(-1, 1)) / batch.numel()
        return torch.ones_like(loss) if self.silent else loss

    def step(self) -> None:
        training = self.training
        training.t += 1
        self.submission.before_step(training)
        for parameter in training.model.parameters():
            parameter.grad = None
        self.submission.train_step(training, self.batch())
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.submission.lr_factor(training.t, STEPS)
            optimizer.step()
        self.submission.after_step(training)

    def steps(self, count: int) -> Run:
        for _ in range(count):
            self.step()
        return self

    def saved(self) -> bytes:
        file = io.BytesIO()
        parts = [self.training.model.state_dict(), [o.state_dict() for o in self.training.optimizers], self.training.state]
        torch.save(parts, file)
        return file.getvalue()

    def load(self, saved: bytes) -> Run:
        model, optimizers, state = torch.load(io.BytesIO(saved), weights_only=True)
        self.training.model.load_state_dict(model)
        for optimizer, own in zip(self.training.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(own)
        self.training.state.clear()
        self.training.state.update(state)
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.training.model.state_dict().items()}

    def state_bytes(self) -> dict[str, int]:
        """Bytes of optimizer state by the names of the parameters; a stack's are shared out evenly."""
        names = {id(parameter): name for name, _, parameter in named_roles(self.training.model)}
        found: dict[str, int] = {}
        for optimizer in self.training.optimizers:
            if isinstance(optimizer, engine.MatrixOptimizer):
                for stack in optimizer.stacks:
                    size = sum(value.nbytes for value in stack.state.values())
                    found |= dict.fromkeys(stack.names, size // len(stack.names))
            else:
                for parameter, entry in optimizer.state.items():
                    found[names[id(parameter)]] = sum(value.nbytes for value in entry.values() if isinstance(value, Tensor))
        return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_names_its_paper_and_its_memory(name: str) -> None:
    cls = catalog.submission_class(name)
    assert cls.paper
    assert cls.memory
    assert cls.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_has_one_owner(name: str) -> None:
    run = Run(small(name)).steps(1)
    owned = [id(p) for optimizer in run.training.optimizers for group in optimizer.param_groups for p in group["params"]]
    trainable = {id(parameter): label for label, _, parameter in named_roles(run.training.model)}
    assert len(owned) == len(set(owned))
    assert set(trainable) <= set(owned), {label for key, label in trainable.items() if key not in owned}


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_gradient_harms_nothing(name: str) -> None:
    run = Run(small(name))
    run.silent = True
    run.step()
    after_silence = run.weights()
    assert all(value.isfinite().all() for value in after_silence.values())
    run.silent = False
    run.steps(2)
    assert all(value.isfinite().all() for value in run.weights().values())
    assert not same(run.weights(), after_silence)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_tensors_only(name: str) -> None:
    run = Run(small(name)).steps(2)
    assert all(isinstance(value, Tensor) for value in run.training.state.values())
    for optimizer in run.training.optimizers:
        if not isinstance(optimizer, engine.MatrixOptimizer):
            kinds = {type(value) for entry in optimizer.state.values() for value in entry.values()}
            assert all(issubclass(kind, Tensor) or kind is int for kind in kinds), kinds


@functools.cache
def whole(name: str) -> tuple[Run, dict[int, bytes]]:
    """An uninterrupted run of all steps, and what a checkpoint held after some of them."""
    run, saved = Run(small(name)), {}
    for t in range(1, STEPS + 1):
        run.step()
        if t in KILLS:
            saved[t] = run.saved()
    return run, saved


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_however_often_it_is_evaluated(name: str) -> None:
    run = Run(small(name))
    for _ in range(STEPS // 2):
        run.steps(2)
        before = run.weights()
        with run.submission.for_eval(run.training):
            assert run.loss(run.batch()).isfinite()
        assert same(run.weights(), before)
    assert same(run.weights(), whole(name)[0].weights())


@pytest.mark.parametrize("killed", KILLS)
@pytest.mark.parametrize("name", NAMES)
def test_goes_on_bit_identically_after_a_kill(name: str, killed: int) -> None:
    first, saved = whole(name)
    second = Run(small(name), t=killed).load(saved[killed])
    second.steps(STEPS - killed)
    assert same(first.weights(), second.weights())
    assert same(first.training.state, second.training.state)


@pytest.mark.parametrize("name", NAMES)
def test_memory_formula_is_the_measured_state(name: str) -> None:
    submission = small(name)
    run = Run(submission).steps(2)
    measured = run.state_bytes()
    for role in MATRIX_ROLES:
        expected = actual = 0.0
        for layer in range(SHAPE.layers):
            prefix = f"layers.{layer}.{role}"
            rows, columns = original_shape(role)
            expected += formula(submission, rows, columns, role)
            actual += sum(size for key, size in measured.items() if key.startswith(f"{prefix}."))
        assert actual == 4 * expected, (role, actual / 4 / SHAPE.layers, expected / SHAPE.layers)


def original_shape(role: str) -> tuple[int, int]:
    if role.startswith("attn"):
        return SHAPE.hidden, SHAPE.hidden
    return (SHAPE.hidden, SHAPE.mlp) if role == "mlp.down" else (SHAPE.mlp, SHAPE.hidden)


def formula(submission: Submission, rows: int, columns: int, role: str) -> float:
    """`memory` evaluated for one matrix, in elements of 4 bytes."""
    names: dict[str, Any] = {field.name: getattr(submission, field.name) for field in dataclasses.fields(submission)}
    names |= {"m": min(rows, columns), "n": max(rows, columns), "rows": rows, "columns": columns, "role": role}
    names |= {"layers": SHAPE.layers, "heads": SHAPE.heads, "ceil": math.ceil, "min": min, "max": max}
    return float(eval(submission.memory, {"__builtins__": {}}, names))


@pytest.mark.parametrize("name", BY_MATRIX)
def test_stacked_equals_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = Run(small(name), dtype=torch.float64).steps(STEPS)
    monkeypatch.setattr(engine, "CPU_STACKED_BELOW", 0)
    alone = Run(small(name), dtype=torch.float64).steps(STEPS)

    def largest(run: Run) -> int:
        return max(len(s.names) for o in run.training.optimizers if isinstance(o, engine.MatrixOptimizer) for s in o.stacks)

    assert largest(stacked) > largest(alone) == 1
    for key, value in stacked.weights().items():
        torch.testing.assert_close(alone.weights()[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BY_MATRIX)
def test_probes_name_their_matrices(name: str) -> None:
    run = Run(small(name))
    seen: list[tuple[Probes, list[str]]] = []
    for optimizer in run.training.optimizers:
        if isinstance(optimizer, engine.MatrixOptimizer):
            optimizer.probe = lambda probes, names: seen.append((probes, names))
    run.steps(2)
    for probes, names in seen:
        for value in probes.values():
            assert value.shape[0] == len(names)
            assert value.ndim <= 2
            assert value.isfinite().all()


@pytest.mark.parametrize("name", [name for name in WITH_STATE_DTYPE if catalog.submission_class(name).kind != "quantised"])
def test_short_state_is_half_of_it_for_matrices(name: str) -> None:
    full, short = (Run(small(name, state_dtype=dtype)).steps(2) for dtype in ("fp32", "bf16"))
    matrices = {label for label, _, parameter in named_roles(full.training.model) if parameter.ndim == 2}
    sizes = [sum(size for label, size in run.state_bytes().items() if label in matrices) for run in (full, short)]
    assert sizes[1] <= 0.55 * sizes[0], "counts, indices and seeds aside"


@pytest.mark.parametrize("dtype", ["bf16", "bf16_stochastic"])
@pytest.mark.parametrize("name", WITH_STATE_DTYPE)
def test_short_state_is_short_and_trains(name: str, dtype: str) -> None:
    run, full = Run(small(name, state_dtype=dtype)).steps(STEPS), whole(name)[0]
    start = Run(small(name)).weights()
    assert sum(run.state_bytes().values()) <= sum(full.state_bytes().values())
    short, exact = run.weights(), full.weights()
    moved = math.sqrt(sum(float((exact[key] - start[key]).square().sum()) for key in start))
    apart = math.sqrt(sum(float((exact[key] - short[key]).square().sum()) for key in start))
    assert apart < 0.5 * moved
    resumed = Run(small(name, state_dtype=dtype)).steps(3)
    resumed = Run(resumed.submission, t=3).load(resumed.saved()).steps(STEPS - 3)
    assert same(short, resumed.weights())
