"""YAML files whose mappings remember the line of each key, so that an error can point at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from runner import fields


class Mapping(dict[str, Any]):
    """A mapping from a YAML file; `lines` has the line of each key."""

    lines: dict[str, int]

    def check_keys(self, known: set[str] | frozenset[str], what: str) -> None:
        """Stops at the first key that is not in `known`.

        Raises:
            ValueError: with the line and the nearest known key.
        """
        for key in self:
            if key not in known:
                raise ValueError(f"line {self.lines[key]}: {what} has no key {key!r}{fields.nearest(str(key), known)}")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C parser where PyYAML has it
    pass


def _construct(loader: _Loader, node: yaml.MappingNode) -> Mapping:
    mapping = Mapping()
    mapping.lines = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if key in mapping:
            raise ValueError(f"line {line}: the key {key!r} stands here for the second time (first in line {mapping.lines[key]})")
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.lines[key] = line
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _construct)


def parse(text: str) -> Any:
    """The document in `text`.

    Raises:
        ValueError: not YAML, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None


def read(path: Path) -> Any:
    """The document in a file.

    Raises:
        ValueError: the file is missing, not text or not YAML.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def value(text: str) -> Any:
    """A value typed on a command line: YAML, except that `5e-4` is a number there."""
    parsed = parse(text)
    if isinstance(parsed, str):
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed
