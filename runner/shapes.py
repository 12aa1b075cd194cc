"""What JSON may hold where a dataclass is to be read back, and a check of it that is cheap enough for every line of every record.

Nothing is converted here, and nothing forgiven: the values were written by a program. Those that people type go through `runner.fields`.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

NOT_FINITE = ("nan", "inf", "-inf")
"""What stands for the floats that JSON does not have."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one value may be."""

    kinds: frozenset[type]
    words: str
    choices: tuple[str, ...] = ()
    items: Shape | None = None
    """Of the values of an object; None for anything."""
    inner: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    """Of those values of an object that have these names."""


PLAIN = Shape(
    kinds=frozenset({bool, int, float, str, types.NoneType, list, dict}), words="a number of at most 64 bits or another value of JSON"
)
"""Anything; annotate with `Annotated[Any, PLAIN]`."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What an object may be that is to become a dataclass."""

    known: Mapping[str, Shape]
    required: frozenset[str]


def of(cls: type, *, inner: Mapping[str, Mapping[str, Any]]) -> Fields:
    """The fields of a dataclass.

    Args:
        inner: annotations of values inside fields that are objects, by the names of field and value.
    """
    known = {name: _shape(hint) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}
    for name in known.keys() & inner.keys():
        known[name] = dataclasses.replace(known[name], inner={key: _shape(hint) for key, hint in inner[name].items()})
    unset = dataclasses.MISSING
    required = (f.name for f in dataclasses.fields(cls) if f.default is unset and f.default_factory is unset)
    return Fields(known=known, required=frozenset(required))


def check(row: Mapping[str, Any], fields: Fields, *, name: str) -> None:
    """Checks an object as JSON gave it.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    if extra := row.keys() - fields.known.keys():
        raise ValueError(f"unknown field {min(extra)!r} in {name}")
    if missing := fields.required - row.keys():
        raise ValueError(f"no field {min(missing)!r} in {name}")
    for field, value in row.items():
        _check(value, fields.known[field], field)


def _shape(hint: Any) -> Shape:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # with None; records have no other
        shape = _shape(arguments[0])
        return dataclasses.replace(shape, kinds=shape.kinds | {types.NoneType}, words=f"{shape.words} or null")
    if origin is Annotated:
        return typing.cast(Shape, hint.__metadata__[0])
    if origin is Literal:
        return Shape(kinds=frozenset({str}), words=f"one of {', '.join(arguments)}", choices=arguments)
    if origin is dict:
        return Shape(kinds=frozenset({dict}), words="an object", items=None if arguments[1] is Any else _shape(arguments[1]))
    if hint is float:
        return Shape(kinds=frozenset({int, float}), words="a number")
    return Shape(kinds=frozenset({hint}), words={int: "a whole number of 64 bits", str: "text"}[hint])


def _check(value: Any, shape: Shape, name: str) -> None:
    fits = type(value) in shape.kinds and (type(value) is not int or abs(value) < 2**63)
    written_out = float in shape.kinds and isinstance(value, str) and value in NOT_FINITE
    if not (fits or written_out) or (shape.choices and value not in shape.choices):
        raise ValueError(f"{name} is {json.dumps(value)[:60]}; expected {shape.words}")
    if isinstance(value, list):
        for item in value:
            _check(item, shape, name)
    elif isinstance(value, dict) and (shape.items or shape.inner):
        for key, item in value.items():
            if expected := shape.inner.get(key, shape.items):
                _check(item, expected, f"{name}.{key}")
