"""Loading a user's Python file, and picking the one submission in a module.

The module gets a name of its own and stands in `sys.modules` before it is executed: dataclasses look there for the types
of their fields. What it imports from its own folder is found there, after everything else that Python finds; a relative import
takes the folder for a package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runner import faults, hyperparameters, neighbours
from runner.trial import digest

if TYPE_CHECKING:
    from submissions.base import Submission


def load(path: Path) -> ModuleType:
    """The module in a file, executed once for each version of its text.

    Raises:
        ValueError: there is no such file, it raises (the message has file and line), or another module hides one beside it.
    """
    path = path.resolve()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a Python file (`slimperf new FILE` writes one)") from None
    version = hashlib.sha256(str(path).encode() + text).hexdigest()[:12]
    name = f"{_package(path.parent)}.{path.stem.replace('.', '_')}_{version}"
    if name in sys.modules:
        return sys.modules[name]
    neighbours.enter(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's: it may raise anything
        del sys.modules[name]
        hint = "; expected it installed, or beside the file" if isinstance(error, ModuleNotFoundError) else ""
        said = f"{type(error).__name__}: {error}{hint}"
        raise ValueError(f"{_where(error, path)}: {said} (the file stopped while it was imported)") from error
    return module


def identity(text: bytes, modules: dict[str, str]) -> str:
    """SHA-256 of a file's text alone, or of that and of the hashes of the modules beside it that it imports."""
    own = hashlib.sha256(text).hexdigest()
    return digest([own, modules]) if modules else own


def _package(folder: Path) -> str:
    """The name of the package that relative imports from a folder start at; its `__init__.py`, if it has one, is not run."""
    name = f"{neighbours.PACKAGE}{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_loader(name, None, is_package=True)
    assert spec is not None, name
    spec.submodule_search_locations = [str(folder)]
    sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    return name


def only_submission(module: ModuleType) -> type[Submission]:
    """The one submission that a module defines.

    Raises:
        ValueError: it defines none or several, or one that lacks a method.
    """
    from submissions.base import Submission

    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, Submission) and not c.__name__.startswith("_")]
    found = [c for c in found if not any(c is not d and issubclass(d, c) for d in found)]
    where = str(module.__file__)
    if not found:
        raise ValueError(
            f"{where}: no submission in it; expected one class that extends MatrixSubmission or Submission"
            " (from submissions.base); `slimperf new FILE` writes one to start from"
        )
    if len(found) > 1:
        names = ", ".join(f"{c.__name__} (line {_line(c)})" for c in found)
        raise ValueError(f"{where}: {len(found)} submissions in it: {names}; expected one per file")
    return checked(found[0], f"{where}, line {_line(found[0])}")


def checked(cls: Any, where: str) -> type[Submission]:
    """The class, if it is a complete submission.

    Raises:
        ValueError: it is none, lacks a method or the decorator, or has a field that cannot be a hyperparameter.
    """
    from submissions.base import MatrixSubmission, Submission

    if not (isinstance(cls, type) and issubclass(cls, Submission)):
        raise ValueError(f"{where}: expected a class that extends submissions.base.Submission, got {cls!r}")
    needed = ("optimizers",) if not issubclass(cls, MatrixSubmission) else ("init", "update")
    base: type[Submission] = MatrixSubmission if issubclass(cls, MatrixSubmission) else Submission
    replaced = issubclass(cls, MatrixSubmission) and cls.optimizers is not MatrixSubmission.optimizers
    lacking = {name for name in (*needed, "direction") if getattr(cls, name, None) is getattr(base, name, None)}
    if "direction" not in lacking:
        lacking.discard("update")  # the base makes one out of the other
    missing = [name for name in needed if name in lacking and not replaced]
    if missing:
        raise ValueError(f"{where}: {cls.__name__} does not define {' and '.join(missing)}(), which a {base.__name__} must")
    undecorated = [name for name in vars(cls).get("__annotations__", {}) if name not in cls.__dataclass_fields__]
    if undecorated:
        raise ValueError(
            f"{where}: {cls.__name__} must be decorated with @dataclass(frozen=True, kw_only=True), else its fields do not count"
        )
    if not all(f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING for f in dataclasses.fields(cls)):
        bare = next(f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING)
        raise ValueError(f"{where}: the hyperparameter {bare!r} of {cls.__name__} needs a default value")
    try:
        hyperparameters.check(cls)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return cls


def _line(cls: type) -> int:
    return inspect.getsourcelines(cls)[1]


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    inside = faults.place(error, [path])
    return f"{path}, line {inside[1]}" if inside else str(path)
