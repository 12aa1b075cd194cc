"""Values that a person typed, checked against the types of a dataclass's fields.

YAML 1.1 reads `5e-4` as text and bare `on`, `off`, `yes`, `no` as booleans; the messages say so.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union


def types_of(cls: type) -> dict[str, Any]:
    """Name and resolved type of every field of a dataclass, in order of declaration."""
    return _types_of(cls)


@functools.cache
def _types_of(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what there is when nothing is near."""
    choices = sorted(known)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(choices)}" if choices else "; there is none"


def coerce(annotation: Any, value: Any, name: str) -> Any:
    """`value` as the type asks: whole numbers become floats where floats are due, lists become tuples.

    Raises:
        ValueError: the value is not of that type.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin is Literal:
        return _literal(args, value, name)
    if origin is Union or origin is types.UnionType:
        return _union(args, value, name)
    if origin in (tuple, list):
        return _sequence(origin, args, value, name)
    if origin is dict and isinstance(value, dict):
        return {key: coerce(args[1], item, f"{name}.{key}") for key, item in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = types.NoneType if annotation is None else origin or annotation
    if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
        return value
    raise _mismatch(annotation, value, name)


def describe(annotation: Any) -> str:
    """The type in words: `a number`, `one of none, norm_growth`, `a list of 2 numbers`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is Union or origin is types.UnionType:
        return " or ".join(map(describe, args))
    if origin in (tuple, list):
        if origin is list or args[-1] is Ellipsis:
            return f"a list (each: {describe(args[0])})"
        return f"a list of {len(args)} (each: {describe(args[0])})"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", types.NoneType: "null", None: "null"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def plain(value: Any) -> Any:
    """The same value as JSON gives it back: tuples as lists."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _literal(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    hint = _boolean_hint(value) or (nearest(value, map(str, choices)) if isinstance(value, str) else "")
    raise ValueError(f"{name} = {value!r}: expected one of {', '.join(map(str, choices))}{hint}")


def _union(arms: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in arms:
        return None
    exact = [arm for arm in arms if arm is type(value)]
    others = [arm for arm in arms if arm is not type(None)]
    for arm in exact or others:
        try:
            return coerce(arm, value, name)
        except ValueError:
            if len(others) == 1:
                raise
    raise _mismatch(Union[arms], value, name)  # noqa: UP007  # a union of a tuple of types


def _sequence(origin: type, args: tuple[Any, ...], value: Any, name: str) -> Any:
    annotation = origin[args]  # type: ignore[index]  # tuple or list
    if not isinstance(value, list | tuple):
        raise _mismatch(annotation, value, name)
    if origin is list or args[-1] is Ellipsis:
        kinds = [args[0]] * len(value)
    else:
        kinds = list(args)
    if len(kinds) != len(value):
        raise ValueError(f"{name} = {value!r}: expected {len(kinds)} values, got {len(value)}")
    return origin(coerce(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _mismatch(annotation: Any, value: Any, name: str) -> ValueError:
    hint = _boolean_hint(value)
    if isinstance(value, str):
        hint = _number_hint(value)
    elif isinstance(value, list):
        hint = "; a list here is one value: to try each of its items, put it under `sweep`"
    return ValueError(f"{name} = {value!r}: expected {describe(annotation)}{hint}")


def _boolean_hint(value: Any) -> str:
    if not isinstance(value, bool):
        return ""
    return "; YAML reads bare on, off, yes and no as booleans: put the word in quotes"


def _number_hint(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return ""
    mantissa, e, exponent = text.partition("e")
    better = f"{mantissa}.0e{exponent if exponent[:1] in '+-' else '+' + exponent}" if e and "." not in mantissa else repr(number)
    if e and "." in mantissa and exponent[:1] not in ("+", "-"):
        better = f"{mantissa}e+{exponent}"
    return f"; this is text: YAML reads a number with an exponent only with a dot and a sign, write {better} (without quotes)"
