"""Scaling factors of two trainings: measures with known answers, intervals, and every reason to refuse a comparison."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis import intruders, similarity, spikes, spread, trajectory
from analysis.similarity import Factors


def factors(values: list[float], **changes: object) -> Factors:
    named = {f"layers.{i}.attn.q.weight": np.array([value]) for i, value in enumerate(values)}
    setting = {"workload": "llama_nano", "data": "c0ffee", "seed": 0}
    base = Factors(trial="t", definition="matrix", steps=(10, 20), setting=setting, values=named)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_measures_have_their_textbook_values() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = similarity.metrics(x, 2 * x)
    assert [found[name] for name in ("spearman", "kendall", "pearson", "cosine")] == pytest.approx([1, 1, 1, 1])
    assert found["ratio"] == pytest.approx(0.5)
    assert found["mse"] == pytest.approx(7.5)
    assert found["mse_normalised"] == pytest.approx(0, abs=1e-15)
    swapped = similarity.metrics(x, x[[1, 0, 2, 3]])
    assert swapped["spearman"] == pytest.approx(0.8)
    assert swapped["kendall"] == pytest.approx(4 / 6)


def test_a_normalised_error_is_the_cosine_again() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.lognormal(size=50), rng.lognormal(size=50)
    found = similarity.metrics(x, y)
    assert found["mse_normalised"] == pytest.approx(2 * (1 - found["cosine"]) / 50)


def test_the_published_p_values_come_out_at_the_published_lengths() -> None:
    """Spearman 0.9972 over 56 matrices: p = 2.0e-62, from a t-test with 54 degrees of freedom."""
    from scipy import stats

    rho, n = 0.9972, 56
    t = rho * np.sqrt((n - 2) / (1 - rho**2))
    assert 2 * stats.t.sf(t, n - 2) == pytest.approx(2.0e-62, rel=0.5)


def test_intervals_hold_the_value_and_shrink_with_agreement() -> None:
    rng = np.random.default_rng(1)
    x = rng.lognormal(sigma=1.0, size=40)
    close, loose = x * rng.lognormal(sigma=0.05, size=40), x * rng.lognormal(sigma=1.0, size=40)
    tight, wide = (similarity.compare([(factors(list(x)), factors(list(y)))], draws=200) for y in (close, loose))
    assert tight["spearman_low"] <= tight["spearman"] <= tight["spearman_high"]
    assert tight["spearman_high"] - tight["spearman_low"] < wide["spearman_high"] - wide["spearman_low"]
    assert (tight["entries"], tight["pairs"]) == (40, 1)


def test_over_seeds_one_pair_has_no_interval_and_two_have() -> None:
    one = (factors([1, 2, 3]), factors([1, 2, 3.5]))
    other = (factors([1, 2, 3]), factors([1, 3, 2]))
    assert "spearman_low" not in similarity.compare([one], over="seeds", draws=20)
    both = similarity.compare([one, other], over="seeds", draws=200)
    assert (both["spearman_low"], both["spearman_high"]) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_draw_takes_a_matrix_with_all_its_indices() -> None:
    rng = np.random.default_rng(2)
    x = {f"layers.{i}.mlp.up.weight": rng.lognormal(size=100) for i in range(6)}
    first = dataclasses.replace(factors([]), values=x, definition="index")
    second = dataclasses.replace(first, values={name: 3 * value for name, value in x.items()})
    found = similarity.compare([(first, second)], draws=30)
    assert found["entries"] == 600
    assert (found["ratio_low"], found["ratio_high"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"definition": "mean"}, "factors by matrix and by mean; take one definition for both"),
        ({"steps": (10, 20, 30)}, r"recorded on different grids \(2 steps up to 20 and 3 steps up to 30\); use one probes_every"),
        ({"setting": {"workload": "llama_nano", "data": "c0ffee", "seed": 1}}, r"different seed \(0 and 1\); both must see the same data"),
        ({"setting": {"workload": "llama_nano", "data": "decaf", "seed": 0}}, r"different data \(c0ffee and decaf\)"),
    ],
)
def test_what_may_not_be_compared(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        similarity.check(factors([1, 2]), factors([1, 2], **changes))


def test_other_matrices_are_named() -> None:
    with pytest.raises(ValueError, match=r"1 matrices have factors in one of them only, layers\.2\.attn\.q\.weight among them"):
        similarity.check(factors([1, 2]), factors([1, 2, 3]))


def falling(steps: int = 100, noise: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(3)
    return 2 + 3 * np.exp(-np.arange(steps) / 30) + noise * rng.standard_normal(steps)


def test_a_smooth_curve_has_no_spikes_and_planted_ones_are_counted_once() -> None:
    losses = falling()
    assert len(spikes.spikes(losses)) == 0
    losses[40:43] += 1.0  # one spike of three steps
    losses[70] += 1.0
    assert spikes.spikes(losses).tolist() == [40, 70]


def test_a_short_or_diverging_curve() -> None:
    assert len(spikes.spikes(falling(spikes.WINDOW))) == 0
    losses = falling()
    losses[90:] = np.nan
    assert spikes.spikes(losses).tolist() == [90]


def test_a_planted_direction_is_an_intruder_and_a_scaled_matrix_has_none() -> None:
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    old = basis[:, :16] * np.linspace(10, 1, 16) @ np.linalg.qr(rng.standard_normal((24, 16)))[0].T
    assert np.allclose(intruders.similarities(old, 2 * old)[:16], 1, atol=1e-8)
    new = old + 50 * np.outer(basis[:, 20], rng.standard_normal(24))  # outside of everything that old spans
    alike = intruders.similarities(old, new, leading=16)
    assert alike[0] < 0.1
    assert (alike[1:8] > 0.7).all()


def test_intervals_end_where_values_do() -> None:
    table = pd.DataFrame({"seed": [0, 1, 2], "cosine": [0.96, 0.985, 0.999]})
    free = spread.over(table.assign(pair="R-G"), "cosine", by=["pair"])
    assert free["cosine_high"].item() > 1
    measured = {"cosine": table["cosine"], "spearman": [-0.9, -0.95, -1.0], "ratio": [0.1, 1.0, 10.0], "distance": [0.0, 0.1, 0.0]}
    steps = table[["seed"]].assign(rank=4, basis="svd", pair="R-G", step=1, distance_normalised=0.1, **measured)
    row = trajectory.averaged(steps).iloc[0]
    assert row["cosine_high"] == 1
    assert row["cosine_low"] == free["cosine_low"].item(), "the other end stays"
    assert row["spearman_low"] == -1
    assert row["distance_low"] == 0
    assert row["ratio_high"] > 100, "a ratio has no end"
