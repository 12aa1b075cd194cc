"""`torch.compile` of a trial's model, module by module: equal layers share a graph, so that 32 of them compile as fast as one.

Modules are compiled in place: parameters, their names in a checkpoint, and hooks are those of the plain model. Updates are not compiled:
a rule gets the number of the step as a Python number and keeps its state in a dict, so that each step would be a graph of its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from torch import nn

from runner.clock import Clock

BACKEND = "inductor"
PART = "compile"
"""The clock's part. What only evaluation needs is compiled when it runs, off the clock."""


def cover(modules: Iterable[nn.Module]) -> None:
    """Has modules compiled when they are next called, also those that a submission has added since the last time (copies are plain)."""
    for module in modules:
        if module._compiled_call_impl is None:
            module.compile(backend=BACKEND)


@contextlib.contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """Inside, compiling starts from nothing, whatever ran before on this machine, and its time goes to the clock's own part."""
    from torch import _dynamo  # takes seconds to import
    from torch._dynamo.callback import callback_handler

    _dynamo.reset()
    parts = ExitStack()

    def begin(*_: object) -> None:
        if clock.running:
            parts.enter_context(clock.part(PART))

    def end(*_: object) -> None:
        parts.close()

    with _empty_cache():
        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(begin)
            callback_handler.remove_end_callback(end)


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """A folder for compiled code that ends with the trial: with a shared one the first trial of a study would pay for all."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.pop(name, None) for name in names}
    with tempfile.TemporaryDirectory(prefix="slimperf-compile-", ignore_cleanup_errors=True) as folder:
        os.environ |= {name: os.path.join(folder, name.partition("_")[0].lower()) for name in names}
        try:
            yield
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
