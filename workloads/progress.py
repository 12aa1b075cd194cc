"""Long evaluations say how far they are, to whoever listens; nobody has to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_SUBJECT: ContextVar[str] = ContextVar("subject", default="validation")


def tell(done: int, total: int) -> None:
    """Of the present subject, so many of so many."""
    if (listener := _LISTENER.get()) is not None:
        listener(f"{_SUBJECT.get()} {done}/{total}")


@contextlib.contextmanager
def on(subject: str) -> Iterator[None]:
    """What is told inside is about `subject`."""
    token = _SUBJECT.set(subject)
    try:
        yield
    finally:
        _SUBJECT.reset(token)


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """What is told inside goes to `listener`, as `subject done/total`."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
