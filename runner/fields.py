"""Values that a person typed, checked against the types of a dataclass's fields.

YAML 1.1 reads `5e-4` as text and bare `on`, `off`, `yes`, `no` as booleans; the messages say so.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union

SCALARS = (bool, int, float, str, types.NoneType)
BARE = {tuple: Union[*SCALARS, tuple], list: Union[*SCALARS, list]}
"""What an item of a sequence may be whose type does not say it."""


def types_of(cls: type) -> dict[str, Any]:
    """Name and resolved type of every field of a dataclass, in order of declaration.

    Raises:
        ValueError: a type cannot be told from what the class says.
    """
    return _types_of(cls)


@functools.cache
def _types_of(cls: type) -> dict[str, Any]:
    hints = _hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception as error:  # an annotation may be any text, which is evaluated here
        wrong = getattr(error, "name", None) or "?"
        written = {name: kind for owner in cls.__mro__ for name, kind in vars(owner).get("__annotations__", {}).items()}
        named = next((f"field {name} of " for name, kind in written.items() if wrong in str(kind)), "")
        raise ValueError(f"{named}class {cls.__name__}: its type cannot be resolved: {error}") from None


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
    if _is_choice(annotation):
        return _member(annotation, value, name)
    if _is_sequence(annotation):
        return _sequence(annotation, value, name)
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
    if _is_choice(annotation):
        return f"one of {', '.join(_choices(annotation))}"
    if _is_sequence(annotation):
        kinds, each = _items(annotation)
        if kinds is None:
            return "a list" if each in BARE.values() else f"a list (each: {describe(each)})"
        told = list(dict.fromkeys(map(describe, kinds)))
        return f"a list of {len(kinds)} ({'each: ' if len(told) == 1 else ''}{', '.join(told)})"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", types.NoneType: "null", None: "null"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def plain(value: Any) -> Any:
    """The same value as JSON gives it back: tuples as lists, members of an Enum as their values."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def storable(annotation: Any) -> bool:
    """Whether values of a type can be written in YAML and read back from there."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return all(type(choice) in SCALARS for choice in args)
    if origin is Union or origin is types.UnionType:
        return all(map(storable, args))
    if _is_choice(annotation):
        return all(type(member.value) in SCALARS for member in annotation)
    if _is_sequence(annotation):
        kinds, each = _items(annotation)
        return each in BARE.values() or all(map(storable, kinds or [each]))
    if origin is dict:
        return args[0] is str and storable(args[1])
    return annotation in (*SCALARS, dict)


def _is_choice(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum) and not issubclass(annotation, enum.Flag)


def _is_sequence(annotation: Any) -> bool:
    named = isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields")
    return named or (typing.get_origin(annotation) or annotation) in (tuple, list, Sequence)


def _items(annotation: Any) -> tuple[list[Any] | None, Any]:
    """The types of the items one by one, or None and the type of each of any number."""
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if hasattr(annotation, "_fields"):  # a NamedTuple
        hints = _hints(annotation)
        return [hints.get(name, BARE[tuple]) for name in annotation._fields], None
    if not args:
        return None, BARE[list if origin is list else tuple]
    return (list(args), None) if origin is tuple and args[-1] is not Ellipsis else (None, args[0])


def _choices(kind: type[enum.Enum]) -> list[str]:
    return [member.value if isinstance(member.value, str) else f"{member.value} ({member.name})" for member in kind]


def _member(kind: type[enum.Enum], value: Any, name: str) -> enum.Enum:
    """The member of this value, or else of this name."""
    for member in kind:
        if value is member or (type(member.value) is type(value) and member.value == value):
            return member
    if isinstance(value, str) and value in kind.__members__:
        return kind[value]
    hint = _boolean_hint(value) or (nearest(value, {*map(str, plain(list(kind))), *kind.__members__}) if isinstance(value, str) else "")
    raise ValueError(f"{name} = {value!r}: expected {describe(kind)}{hint}")


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


def _sequence(annotation: Any, value: Any, name: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _mismatch(annotation, value, name)
    kinds, each = _items(annotation)
    if kinds is None:
        kinds = [each] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{name} = {value!r}: expected {len(kinds)} values, got {len(value)}")
    found = [coerce(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))]
    if hasattr(annotation, "_fields"):
        return annotation(*found)
    return found if (typing.get_origin(annotation) or annotation) is list else tuple(found)


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
