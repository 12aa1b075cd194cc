"""How much work an update does, counted instead of timed: products, launches, host synchronisations, the largest temporary."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner import catalog
from submissions import engine, pieces
from submissions.base import MatrixSubmission

SHAPES = {"square": (96, 96), "tall": (160, 96), "wide": (96, 160)}
RULES = {name: catalog.submission_class(name) for name in catalog.submission_names()}
BY_MATRIX = [name for name, cls in RULES.items() if issubclass(cls, MatrixSubmission) and cls.init is not MatrixSubmission.init]
PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_"}
WAITS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "unique_consecutive", "masked_select"}
SMALL: dict[str, Any] = {"rank": 8, "gap": 50, "frequency": 50}
STACKING = "meta"
"""Stacks matrices as a GPU does, and computes nothing."""


class Work(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0
        """Bytes of the largest tensor that was newly made."""
        self.allowed = 0
        """Bytes of the matrix, or of the largest tensor that the rule keeps for it (SOAP's bases are larger)."""
        self.moved: set[str] = set()
        """Operations that brought a tensor from the host to another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.calls[func.overloadpacket.__name__] += 1
        if {"cpu", STACKING} <= {value.device.type for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)}:
            self.moved.add(func.overloadpacket.__name__)
        known = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in known:
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return out

    @property
    def products(self) -> int:
        return sum(self.calls[name] for name in PRODUCTS)


def work(name: str, shape: str, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Work:
    """Of an update between two refreshes, of one matrix by itself."""
    monkeypatch.setattr(engine, "CPU_STACKED_BELOW", 0)
    cls = catalog.submission_class(name)
    rule = cls(**{key: value for key, value in {**SMALL, **values}.items() if key in cls.__dataclass_fields__})
    assert isinstance(rule, MatrixSubmission)
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(SHAPES[shape], generator=generator))
    optimizer = engine.MatrixOptimizer(rule, [engine.Named("matrix", parameter)], lr=1e-3, seed=0)
    counted = Work()
    counted.allowed = max(parameter.nbytes, *(value.nbytes for value in optimizer.state_tensors()), 0)
    for step in range(3):
        parameter.grad = torch.randn(SHAPES[shape], generator=generator)
        if step < 2:
            optimizer.step()
        else:
            with counted:
                optimizer.step()
    return counted


def launches(name: str, layers: int) -> Work:
    """Of an update of that many layers between two refreshes, on a device that stacks them."""
    cls = catalog.submission_class(name)
    rule = cls(**{key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__})
    assert isinstance(rule, MatrixSubmission)
    shapes = [*SHAPES.values(), *([(96,)] if rule.elementwise else [])]
    members = [
        engine.Named(f"{layer}.{shape}", nn.Parameter(torch.empty(shape, device=STACKING))) for layer in range(layers) for shape in shapes
    ]
    optimizer = engine.MatrixOptimizer(rule, members, lr=1e-3, seed=0)
    optimizer.t = 1
    counted = Work()
    for step in range(2):  # the first fills caches of constants
        for member in members:
            member.parameter.grad = torch.empty_like(member.parameter)
        with counted if step else contextlib.nullcontext():
            optimizer.step()
    return counted


@pytest.mark.parametrize("name", BY_MATRIX)
def test_many_matrices_cost_no_more_launches_than_few(name: str) -> None:
    """And a GPU gets nothing from the host, which would have to wait for it (random draws apart: they are left out on the meta device)."""
    few, many = launches(name, 2), launches(name, 9)
    assert few.calls == many.calls
    assert few.calls.total() > 5
    assert not many.moved


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "products"), [("galore", 2), ("fira", 2), ("apollo", 1)])
def test_no_product_is_computed_twice(name: str, products: int, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Project and project back; APOLLO never projects back."""
    assert work(name, shape, monkeypatch).products == products


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_the_direction_is_not_formed(name: str, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights take the direction's terms directly, so that nothing new is as large as the matrix (columns' energy apart)."""
    found = work(name, shape, monkeypatch, limiter="none")
    rows, columns = SHAPES[shape]
    assert found.largest < 4 * rows * columns


@pytest.mark.parametrize("name", BY_MATRIX)
def test_an_update_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of these operations would stop the host until all earlier work is done."""
    found = work(name, "wide", monkeypatch)
    assert not WAITS & found.calls.keys(), WAITS & found.calls.keys()


@pytest.mark.parametrize("name", BY_MATRIX)
def test_no_temporary_is_larger_than_the_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = work(name, "wide", monkeypatch)
    assert found.largest <= found.allowed


@pytest.mark.parametrize("limiter", ["norm_growth", "none"])
def test_terms_give_the_weights_that_the_formed_direction_gives(limiter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain definition is `update`; a subclass that overrides it is believed."""
    monkeypatch.setattr(engine, "CPU_STACKED_BELOW", 0)
    for name in ("galore", "fira", "apollo"):
        cls = catalog.submission_class(name)
        plain = type(f"Plain{name}", (cls,), {"update": lambda self, G, state, t: MatrixSubmission.update(self, G, state, t)})
        values = {"limiter": limiter} if "limiter" in cls.__dataclass_fields__ else {}
        ends = []
        for kind in (cls, plain):
            assert engine.gives_terms(kind) == (kind is cls)
            weights = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()) for shape in SHAPES.values()]
            rule = kind(rank=8, gap=3, weight_decay=0.1, **values)
            optimizer = engine.MatrixOptimizer(rule, [engine.Named(str(k), p) for k, p in enumerate(weights)], lr=1e-2, seed=0)
            for step in range(5):
                for parameter in weights:
                    parameter.grad = 0.1 * parameter.detach() + step
                optimizer.step()
            ends.append([parameter.detach() for parameter in weights])
        torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)


ELEMENTWISE = [name for name in BY_MATRIX if RULES[name].elementwise]  # type: ignore[attr-defined]  # of MatrixSubmission
PIECE = 2**10


@pytest.mark.parametrize("values", [{}, {"momentum_decay": 0.004}, {"state_dtype": "bf16"}], ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_pieces_give_the_weights_that_the_whole_gives(name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cls = catalog.submission_class(name)
    rule = cls(lr=1e-2, weight_decay=0.1, **{key: value for key, value in values.items() if key in cls.__dataclass_fields__})
    assert isinstance(rule, MatrixSubmission)
    ends = []
    for size in (PIECE, 2**20):
        monkeypatch.setattr(pieces, "CPU_PIECE", size)
        generator = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in (*SHAPES.values(), (PIECE + 1,))]
        assert len(list(pieces.row_slices(weights[0]))) == (1 if size > PIECE else 10)
        optimizer = engine.MatrixOptimizer(rule, [engine.Named(str(k), p) for k, p in enumerate(weights)], lr=1e-2, seed=0)
        for step in range(4):
            for parameter in weights:
                parameter.grad = 0.1 * parameter.detach() + step
            optimizer.step()
        ends.append([*(parameter.detach() for parameter in weights), *optimizer.state_tensors()])
    torch.testing.assert_close(*ends, rtol=2**-6 if "state_dtype" in values else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_pieces_need_no_temporary_as_large_as_the_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CPU_PIECE", PIECE)
    assert work(name, "wide", monkeypatch).largest <= 4 * PIECE
