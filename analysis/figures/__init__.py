"""Figures from tables: DataFrame in, `matplotlib.figure.Figure` out. Nothing is shown, read from disk or set globally.

Each figure states its units and what its intervals are. Pass `styles=palette.assign(all names)` to several figures and
a submission looks the same in all of them; without it the names in the table decide.
"""

from analysis.figures.ablations import against, heatmap
from analysis.figures.canvas import png, save, svg
from analysis.figures.footprint import PARTS, memory
from analysis.figures.racing import pareto, profile, score_against, scores, time_to_target
from analysis.figures.scaling import scaling
from analysis.figures.training import VALUES, curves

__all__ = [
    "PARTS", "VALUES", "against", "curves", "heatmap", "memory", "pareto", "png", "profile", "save", "scaling", "score_against", "scores",
    "svg", "time_to_target",
]  # fmt: skip
