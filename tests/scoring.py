"""Hand-made tables of times, as the scores take them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import scores

INF = float("inf")


def of_cells(cells: dict[tuple[str, str], list[float]], *, labels: bool = True, bases: dict[str, str] | None = None) -> pd.DataFrame:
    rows = [
        {
            "submission": s,
            "workload": w,
            "study": str(k),
            "base_workload": (bases or {}).get(w),
            "time": t,
            "label": str(k) if labels else None,
        }
        for (s, w), values in cells.items()
        for k, t in enumerate(values)
    ]
    return pd.DataFrame(rows)


def of_matrix(matrix: list[list[float]]) -> pd.DataFrame:
    return of_cells({(f"s{i}", f"w{j}"): [t] for i, row in enumerate(matrix) for j, t in enumerate(row)})


def score_of(studies: pd.DataFrame, **options: Any) -> dict[str, float]:
    board = scores.leaderboard(studies, draws=0, **options)
    return dict(zip(board["submission"], board["score"], strict=True))
