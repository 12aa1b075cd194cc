"""Published numbers: complete, attributed, and equal to what the papers' own arithmetic says."""

from __future__ import annotations

import pytest

from analysis import published


@pytest.mark.parametrize("paper", published.sources())
def test_every_source_says_where_it_is_from(paper: str) -> None:
    source = published.sources()[paper]
    assert {"citation", "read_from", "convention", "seeds", "tables"} <= source.keys()
    for name, content in source["tables"].items():
        assert content["what"], name
        table = published.table(paper, name)
        assert len(table) > 0
        assert not table.duplicated(subset=[column for column in table.columns if column != "value"]).any(), name


def test_averages_of_the_commonsense_table_are_those_of_its_cells() -> None:
    table = published.table("fira", "commonsense_7b").set_index("submission")
    assert table.shape == (6, 9)
    assert (table.drop(columns="average").mean(axis=1) - table["average"]).abs().max() < 0.1


def test_distances_of_unit_vectors_follow_from_their_cosines() -> None:
    table = published.table("fira", "same_run_distance")
    off = ((2 * (1 - table["cosine"])) ** 0.5 - table["l2_distance"]).abs()
    assert off[table["cosine"] < 1].max() < 0.006, "a cosine printed with four digits fixes the distance to that"


def test_tables_that_share_a_run_agree() -> None:
    """31.06 is Fira at its defaults in every table that has it."""
    values = published.values("legacy_ppl")
    main = published.headline("legacy_ppl").set_index(["paper", "workload", "submission"])["value"]
    sweep = values[(values["table"] == "rank_sweep") & (values["hp.rank"] == 128)].set_index("submission")["value"]
    assert main[("fira", "llama_60m", "fira")] == sweep["fira"] == 31.06
    assert main[("galore", "llama_60m", "galore")] == sweep["galore"] == main[("fira", "llama_60m", "galore")]


def test_headline_has_one_value_per_paper_and_cell() -> None:
    for metric in ("legacy_ppl", "memory_gib"):
        rows = published.headline(metric)
        assert not rows.duplicated(["paper", "workload", "submission"]).any()
        assert rows["citation"].notna().all()


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no published numbers from 'gallore'; there are: fira, galore"):
        published.table("gallore", "memory")
    with pytest.raises(ValueError, match="no table 'memry' from 'galore'; there are: perplexity, memory"):
        published.table("galore", "memry")
    with pytest.raises(ValueError, match="no published values of 'bleu'"):
        published.values("bleu")
