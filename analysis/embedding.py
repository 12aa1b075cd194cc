"""Tables and figures as parts of a page that needs no other file: inline SVG in the page's colours, data as links."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis import figures, palette, render

COLOURS = {
    **{colour: f"var(--s{slot})" for slot, colour in enumerate(palette.LIGHT)},
    palette.INK: "var(--ink)",
    palette.MUTED: "var(--muted)",
    palette.GRID: "var(--grid)",
}
"""Colours of the paper version, and the page's variables that take their place in light and dark."""
LONGEST = 120
"""Bytes of a name, so that a file's stays well below what file systems take."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its caption; `data` has every digit."""

    name: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame | None = None
    """What the page shows if that is not all of `data`."""

    def html(self, styles: palette.Styles) -> str:
        dots = {name: f'<i class="dot" style="background:var(--s{style.slot % len(palette.LIGHT)})"></i>' for name, style in styles.items()}
        return render.html(self.data if self.shown is None else self.shown, marks=dots)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with its caption and the table that it shows."""

    name: str
    caption: str
    drawing: Drawing
    data: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs, and what is shown under them."""

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    commands: str = ""


def inline(figure: Figure, *, colours: Mapping[str, str] = COLOURS) -> str:
    """The figure as an `svg` element: identifiers of its own, colours from the page, the caption for screen readers."""
    text = figures.svg(figure.drawing)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{figure.name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{figure.name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{figure.name}-\1)", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: colours.get(match[0], match[0]), text)
    return text.replace("<svg", f'<svg role="img" aria-labelledby="{figure.name}-caption"', 1)


def distinct(sections: Iterable[Section]) -> list[Section]:
    """The same sections, each table and figure with a name for its files and identifiers that no other has."""
    every = list(sections)
    tables = _identifiers(table.name for section in every for table in section.tables)
    drawings = _identifiers(figure.name for section in every for figure in section.figures)
    return [
        replace(
            section,
            tables=tuple(replace(table, name=tables[table.name]) for table in section.tables),
            figures=tuple(replace(figure, name=drawings[figure.name]) for figure in section.figures),
        )
        for section in every
    ]


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Letters, digits and hyphens for each name; a hash of the name follows where these alone are another's too, or are too long.

    Names that differ in case only count as the same, as some file systems have it.
    """
    slugs = {name: "".join(letter if letter.isalnum() else "-" for letter in name).strip("-") for name in names}
    cut = {name: slug.encode()[:LONGEST].decode(errors="ignore") for name, slug in slugs.items()}
    counts = Counter(slug.casefold() for slug in cut.values())
    plain = {name for name, slug in slugs.items() if slug == cut[name] and counts[slug.casefold()] == 1}
    return {name: slug if name in plain else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}" for name, slug in cut.items()}


def link(data: pd.DataFrame) -> str:
    """A table as CSV in a `data:` address."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(render.csv(data).encode()).decode()
