"""Tables and figures as parts of a page that needs no other file: inline SVG in the page's colours, data as links."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass

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


def slug(name: object) -> str:
    """A name as part of an identifier or a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in str(name)).strip("-")


def link(data: pd.DataFrame) -> str:
    """A table as CSV in a `data:` address."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(render.csv(data).encode()).decode()
