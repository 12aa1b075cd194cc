"""How a submission looks in every figure: one colour, dash and marker that depend on its name.

The eight colours keep a CIELAB distance of at least 20 from each other for normal, protan, deutan and tritan vision,
on white paper and on a dark page alike (a test recomputes it); dashes and markers tell them apart in grey print.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

LIGHT = ("#41393d", "#053c92", "#b04200", "#267c4e", "#a14c8d", "#da8500", "#139af6", "#582200")
DARK = ("#d9dde4", "#4380d5", "#f27e4d", "#1de297", "#bf6ea4", "#ebc41f", "#9fc7ff", "#897460")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.6, 1.2, 1.6)),
    (0, (6, 1.4, 1.2, 1.4, 1.2, 1.4)),
    (0, (10, 4)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")

INK, MUTED, GRID, PAPER = "#1d2127", "#5d6570", "#dfe2e7", "#ffffff"
"""Text and axes, secondary text, grid lines, background. The report swaps them for its own in dark mode."""

FIXED = ("adam", "adam_two_lr", "galore", "fira", "lora", "muon", "apollo", "relora", "sgd", "flora", "sltrain", "badam")
"""Names whose slots are given, so that the commonest comparisons never share a colour."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of one submission."""

    slot: int

    @property
    def colour(self) -> str:
        return LIGHT[self.slot % len(LIGHT)]

    @property
    def dash(self) -> Any:
        return DASHES[self.slot // len(LIGHT) % len(DASHES)]

    @property
    def marker(self) -> str:
        return MARKERS[(self.slot + self.slot // len(LIGHT)) % len(MARKERS)]


Styles = Mapping[str, Style]


def assign(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name: its own slot, or the next free one if two names want the same.

    Give all names of a report at once, then every figure of it agrees.
    """
    styles: dict[str, Style] = {}
    # Fixed names first, so that a user's submission never displaces one of them.
    for name in sorted(set(names), key=lambda name: (name not in FIXED, name)):
        slot = FIXED.index(name) if name in FIXED else _nearest_free(name, [style.slot for style in styles.values()])
        styles[name] = Style(slot=slot)
    return styles


def _nearest_free(name: str, taken: list[int]) -> int:
    """The slot after the name's own whose colour, and then whose look, is used least."""
    first = zlib.crc32(name.encode()) % len(LIGHT)
    slots = [(first + step) % (len(LIGHT) * len(DASHES)) for step in range(len(LIGHT) * len(DASHES))]
    colours = [slot % len(LIGHT) for slot in taken]
    return min(slots, key=lambda slot: (taken.count(slot), colours.count(slot % len(LIGHT))))


def label(submission: str) -> str:
    """The short name of a submission: a file path without folder and ending."""
    return PurePath(submission).stem if submission.endswith(".py") else submission
