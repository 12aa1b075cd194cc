"""Our numbers with others beside them: published perplexities, papers' memory estimates, our own predictions.

A relative difference is ours over theirs, minus one. Where nothing was published the cell stays empty.
"""

from __future__ import annotations

import pandas as pd

from analysis import published, spread, tables
from analysis.tables import CELL, ENTRY, RACE

NAMED = 3
"""Of workloads and submissions, where naming all would hide what is said of them."""


def perplexity(trials: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """One row per race (workload, ruleset, machine), submission, and paper that has a value for it.

    `val_ppl` is exact; `legacy_ppl` follows the papers' convention, and it is what `published` is compared with. Only a
    workload without overrides has published values: any change of it makes another experiment.
    """
    result = trials[ENTRY].drop_duplicates()
    for name in ("val_ppl", "legacy_ppl"):
        part = spread.over(tables.final(trials, points, name=name), name, by=ENTRY, logarithmic=True)
        result = result.merge(part if name == "val_ppl" else part.drop(columns="n"), on=ENTRY, how="left")
    theirs = published.headline("legacy_ppl").rename(columns={"value": "published"})
    result = result.merge(theirs[[*CELL, "published", "paper"]], on=CELL, how="left")
    result["relative_difference"] = result["legacy_ppl"] / result["published"] - 1
    return result.sort_values([*RACE, "val_ppl", "paper"], kind="stable", ignore_index=True)


def estimates(table: pd.DataFrame) -> pd.DataFrame:
    """Weights plus optimizer state in `table` (measured or predicted) beside the papers' estimates of the same sum.

    The estimates are printed in a unit that no accounting settles for every cell, so expect agreement within ten percent.

    Args:
        table: columns `workload`, `submission`, `bytes_weights`, `bytes_state`; with `hp.rank`, only estimates for that rank count.
    """
    theirs = published.headline("memory_gib").rename(columns={"value": "gib"})
    result = table.assign(bytes_weights_and_state=table["bytes_weights"] + table["bytes_state"])
    result = result.merge(theirs[[*CELL, "gib", "paper", "hp.rank"]].rename(columns={"hp.rank": "rank"}), on=CELL, how="inner")
    if "hp.rank" in result.columns:
        result = result[result["rank"].isna() | (result["rank"] == pd.to_numeric(result["hp.rank"], errors="coerce"))]
    result["bytes_published"] = result["gib"] * 1024**3
    result["relative_difference"] = result["bytes_weights_and_state"] / result["bytes_published"] - 1
    return result[[*CELL, "rank", "bytes_weights_and_state", "bytes_published", "relative_difference", "paper"]].astype({"rank": "Int64"})


def predictions(measured: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Measured bytes beside predicted ones, a row per workload, submission and part that both have.

    Args:
        measured: as `tables.memory` gives it.
        predicted: one row per workload and submission with the same `bytes_<part>` columns; `slimperf memory --csv` writes it.

    Raises:
        ValueError: the two have no part in common, or the predictions do not say of what they are.
    """
    if missing := [key for key in CELL if key not in predicted.columns]:
        raise ValueError(f"predictions have no column {missing[0]!r}; expected the file that `slimperf memory --csv` writes")
    parts = [name for name in measured.columns if name.startswith("bytes_") and name in predicted.columns]
    if not parts:
        raise ValueError(f"no part in common: measured {_parts(measured)}, predicted {_parts(predicted)}; see `slimperf memory --csv`")
    keys = [key for key in (*CELL, "configuration") if key in measured.columns and key in predicted.columns]
    long = [
        table.melt(id_vars=keys, value_vars=parts, var_name="part", value_name=name)
        for table, name in ((measured, "bytes_measured"), (predicted, "bytes_predicted"))
    ]
    result = long[0].merge(long[1], on=[*keys, "part"], how="inner")
    result["relative_difference"] = result["bytes_predicted"] / result["bytes_measured"] - 1
    return result.assign(part=result["part"].str.removeprefix("bytes_"))


def unmatched(measured: pd.DataFrame, predicted: pd.DataFrame) -> str:
    """What to say where `predictions` finds no row: of what the predictions are, and what was measured."""
    return (
        f"The predictions are not shown: they are of {_cells(predicted)}, measured were {_cells(measured)}. "
        "`slimperf memory --workload NAME --submissions NAME --csv FILE` predicts what was measured."
    )


def _cells(table: pd.DataFrame) -> str:
    cells = [f"{row.submission} on {row.workload}" for row in table[CELL].drop_duplicates().itertuples()]
    return ", ".join(cells[:NAMED]) + (f" and {len(cells) - NAMED} more" if len(cells) > NAMED else "")


def _parts(table: pd.DataFrame) -> str:
    return ", ".join(name for name in table.columns if name.startswith("bytes_")) or "none"
