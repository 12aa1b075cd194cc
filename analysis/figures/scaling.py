"""Speed-up over a baseline against the size of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import efficiency, palette
from analysis.figures import canvas

LABELS = {"speedup": "steps for the same loss", "time_speedup": "time to target"}


def scaling(table: pd.DataFrame, *, y: str = "speedup", baseline: str = "the baseline", styles: palette.Styles | None = None) -> Figure:
    """Speed-up `y` against parameters on logarithmic axes, a power law through each submission's points with its 95 % band.

    Args:
        table: columns `submission`, `parameters`, `y`, as `efficiency.beside` gives.
    """
    styles = styles or palette.assign(table["submission"])
    known = table.dropna(subset=[y, "parameters"])
    fitted, entries = efficiency.line(known, y=y), {}
    with canvas.house_style():
        figure, (axes,) = canvas.panels(1)
        axes.axhline(1, color=palette.MUTED, linewidth=0.9)
        for name, rows in known.groupby("submission", sort=False):
            style = styles[str(name)]
            (entries[str(name)],) = axes.plot(rows["parameters"], rows[y], style.marker, color=style.colour)
            law = fitted[fitted["submission"] == name]
            axes.plot(law["parameters"], law[y], color=style.colour, linestyle=style.dash, linewidth=1.3)
            if law[f"{y}_low"].notna().any():
                axes.fill_between(law["parameters"], law[f"{y}_low"], law[f"{y}_high"], color=style.colour, alpha=0.13, linewidth=0)
        axes.set_xscale("log")
        axes.set(xlabel="model size (parameters)", ylabel=f"{LABELS.get(y, y)}: {baseline} over own")
        sizes = np.unique(known["parameters"].to_numpy(dtype=float))
        axes.set_xticks(sizes, [_size(value) for value in sizes])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.08, y=0.12)
        canvas.note(figure, "line: power law by least squares; band: its 95 % interval, from three sizes on")
        canvas.legend(figure, entries)
    return figure


def _size(parameters: float) -> str:
    """`1.1M`, `60M`, `7B`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= factor:
            return f"{parameters / factor:.2g}{unit}" if parameters < 10 * factor else f"{parameters / factor:.0f}{unit}"
    return f"{parameters:.0f}"
