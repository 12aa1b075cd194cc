"""What a user's file imports from its own folder: as much a part of what it is as its own text.

Import statements are read, those inside functions too, and nothing is run, so that every process finds the same.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ELSEWHERE = sys.stdlib_module_names | {"workloads", "submissions", "runner", "analysis"}
"""Modules that no file of the same name stands in for."""
INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose modules come before those beside a file."""
PACKAGE = "slimperf_folder_"
"""Beginning of the name of the package that relative imports from a folder start at."""
ENTERED: list[str] = []
"""Folders that are on `sys.path` for the files in them."""


def beside(path: Path) -> dict[str, Path]:
    """The modules under a file's folder that it imports, and those that they import, by their path from there.

    Raises:
        ValueError: Python would find another module of that name first.
    """
    importlib.invalidate_caches()  # a module may have been written since the folder was last looked at
    found: dict[str, Path] = {}
    waiting: list[tuple[Path, list[str]]] = [(path, [])]
    while waiting:
        importer, package = waiting.pop()
        for parts, absolute in _imported(importer, package):
            if absolute and not _meant(parts[0], path.parent, importer):
                continue
            for module, inside in _modules(parts, path.parent):
                name = module.relative_to(path.parent).as_posix()
                if module != path and name not in found:
                    found[name] = module
                    waiting.append((module, inside))
    return dict(sorted(found.items()))


def places(spec: ModuleSpec) -> list[Path]:
    """The file of a module, or the folders of a package without one."""
    found = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or [])
    return [Path(place).resolve() for place in found]


def _imported(file: Path, package: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Parts of every dotted name that a file may import, from the folder on, and whether it is an absolute one."""
    try:
        tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):  # to import it says so, and where
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split("."), True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package) + 1:
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            yield from (([*base, alias.name], not node.level) for alias in node.names)


def _modules(parts: list[str], folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The file of each package on the way to a module, and its own, with the package that each is in."""
    folders = [str(folder)]
    for depth, part in enumerate(parts, start=1):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return
        folders = list(spec.submodule_search_locations or [])
        if spec.has_location and spec.origin:
            yield Path(spec.origin), parts[:depth] if folders else parts[: depth - 1]
        if not folders:
            return


def _meant(name: str, folder: Path, importer: Path) -> bool:
    """Whether `import name` means a module in the folder: what is installed comes first, and a plain folder last."""
    own = None if name in ELSEWHERE else PathFinder.find_spec(name, [str(folder)])
    if own is None:
        return False
    first = _elsewhere(name)
    if first is None or places(first) == places(own) or not first.has_location:
        return True
    if not own.has_location or any(INSTALLED & set(place.parts) for place in places(first)):
        return False
    raise ValueError(
        f"{importer}: `import {name}` finds {places(first)[0]} before {places(own)[0]}; rename the latter,"
        f" or import it as a neighbour: `from .{name} import ...`"
    )


def _elsewhere(name: str) -> ModuleSpec | None:
    """What Python finds without the folders of users' files."""
    places_ = [place for place in sys.path if place not in ENTERED]
    found = (finder.find_spec(name, places_ if finder is PathFinder else None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def enter(path: Path) -> None:
    """Makes the modules beside a file importable, last of all, and forgets those of other folders that its imports would find.

    Raises:
        ValueError: Python would find another module of one of their names first.
    """
    wanted = {parts[0] for parts, absolute in _imported(path, []) if absolute}
    for folder in [place for place in ENTERED if place != str(path.parent)]:
        if any(PathFinder.find_spec(name, [folder]) for name in wanted - ELSEWHERE):
            leave(folder)
    if beside(path) and str(path.parent) not in sys.path:
        ENTERED.append(str(path.parent))
        sys.path.append(str(path.parent))


def leave(folder: str) -> None:
    """Takes back what `enter` did; modules that were imported stay with those who have them."""
    ENTERED.remove(folder)
    with contextlib.suppress(ValueError):  # somebody else may have taken it out
        sys.path.remove(folder)
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec) and not name.startswith(PACKAGE) and any(place.is_relative_to(folder) for place in places(spec)):
            del sys.modules[name]
