"""Numbers from papers, with where they stand: shown beside ours, never mixed with them.

Each file in `analysis/papers` is one source: `citation`, `read_from`, `convention`, `seeds`, and `tables`, each of
which says what it is and lists its rows. A table with a `metric` has a column `value` that can be compared; `headline`
marks those at a paper's main settings.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import yaml

KEYS = ["paper", "table"]


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Every source as it stands in its file, by short name."""
    folder = resources.files("analysis") / "papers"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def table(paper: str, name: str) -> pd.DataFrame:
    """One published table, with columns as printed.

    Raises:
        ValueError: there is no such paper or table; the message lists those there are.
    """
    if paper not in sources():
        raise ValueError(f"no published numbers from {paper!r}; there are: {', '.join(sources())}")
    tables = sources()[paper]["tables"]
    if name not in tables:
        raise ValueError(f"no table {name!r} from {paper!r}; there are: {', '.join(tables)}")
    return pd.DataFrame(tables[name]["rows"], columns=tables[name]["columns"])


def values(metric: str) -> pd.DataFrame:
    """All published values of a metric, one per row: paper, table, workload, submission, settings, `value`, `citation`, `note`."""
    found = [
        table(paper, name).assign(
            paper=paper,
            table=name,
            citation=source["citation"],
            where=content.get("provenance", source["read_from"]),
            note=content.get("note"),
        )
        for paper, source in sources().items()
        for name, content in source["tables"].items()
        if content.get("metric") == metric and "value" in content["columns"]
    ]
    if not found:
        raise ValueError(f"no published values of {metric!r}")
    rows = pd.concat(found, ignore_index=True)
    first = [*KEYS, "workload", "submission", "value"]
    return rows[[*first, *(name for name in rows.columns if name not in first)]]


def headline(metric: str) -> pd.DataFrame:
    """The published values at the papers' main settings: one per paper, workload and submission."""
    rows = values(metric)
    # Tables that vary one setting answer another question; the files mark those that do not.
    marked = [sources()[paper]["tables"][name].get("headline", False) for paper, name in zip(rows["paper"], rows["table"], strict=True)]
    return rows[marked].drop_duplicates(["paper", "workload", "submission"], ignore_index=True)
