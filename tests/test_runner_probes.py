"""What is measured beside a training: rows by index, phi of a full-rank Adam, shadow moments; and that none of it changes a bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import alike, claims, load, trajectory
from analysis import probes as read_probes
from runner import catalog, hyperparameters, observation, probes, record, study, train
from runner.observation import Shadow
from runner.probes import Collector
from runner.shadow import Observer
from runner.trial import Trial
from submissions import dense
from submissions.adam import Adam
from submissions.engine import Named

TINY: dict[str, Any] = {"steps": 12, "evaluate_every": 6, "batch.sequences": 2, "validation_tokens": 512, "target": None}
SHADOW = {"shadow": {"ranks": [4, 32], "gap": 5, "bases": ["svd", "coordinates"]}}


def trial(**changes: Any) -> Trial:
    plain = hyperparameters.values(Adam(lr=4e-3))
    base = Trial(study="s", workload="llama_nano", overrides=TINY, submission="adam", hyperparameters=plain, seed=1, stop="budget")
    return replace(base, **changes)


def finished(results: Path, one: Trial) -> record.End:
    assert train.execute(one, results) == "missed"
    end = list(record.lines(record.attempts(results / "s", one.id)[-1]))[-1]
    assert isinstance(end, record.End)
    return end


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, record.End], dict[str, Trial]]:
    results = tmp_path_factory.mktemp("results")
    trials = {
        "plain": trial(),
        "probes": trial(probes_every=3),
        "shadow": trial(probes_every=3, observe=SHADOW),
    }
    return results, {name: finished(results, one) for name, one in trials.items()}, trials


def test_neither_probes_nor_shadows_change_a_bit_of_the_training(runs: tuple[Path, dict[str, record.End], dict[str, Trial]]) -> None:
    _, ends, _ = runs
    hashes = {name: end.extra["weights_sha256"] for name, end in ends.items()}
    assert hashes["plain"] == hashes["probes"] == hashes["shadow"]


def test_what_they_cost_is_measured_apart(runs: tuple[Path, dict[str, record.End], dict[str, Trial]]) -> None:
    _, ends, _ = runs
    assert "probes" not in ends["plain"].seconds
    assert 0 < ends["probes"].seconds["probes"] < ends["probes"].seconds["total"]
    assert ends["shadow"].seconds["off.shadow"] > 0


def test_shadow_moments_of_the_gradient_are_adams_own(runs: tuple[Path, dict[str, record.End], dict[str, Trial]]) -> None:
    results, _, trials = runs
    table, points = load.study(results / "s")
    row = table.set_index("trial", drop=False).loc[trials["shadow"].id]
    header, rows = read_probes.of_trial(row)
    shadow = read_probes.matrices(header, rows, "shadow.phi.G").set_index(["step", "param"])["value"]
    mine = points[(points["trial"] == row["trial"]) & (points["name"] == "phi_matrix")]
    own = mine.set_index(["step", mine["param"].astype(str)])["value"]
    assert len(shadow) == len(own) == 4 * 28
    np.testing.assert_allclose(shadow.sort_index(), own.sort_index(), rtol=2e-5)


def test_the_bound_holds_for_coordinates_and_both_sides_are_recorded(runs: tuple[Path, dict[str, record.End], dict[str, Trial]]) -> None:
    results, _, trials = runs
    table, _ = load.study(results / "s")
    found = trajectory.shadows(table[table["trial"] == trials["shadow"].id])
    bound = trajectory.bound(found).set_index(["basis", "rank"])
    assert (bound["checked"] == 4 * 28).all()
    assert (bound.loc["coordinates", "violations"] == 0).all()
    assert (found["energy"].between(0, 1 + 1e-5)).all()
    energy = bound["energy"]
    assert energy["svd", 32] > energy["svd", 4] > energy["coordinates", 4]
    rows = table[table["trial"] == trials["shadow"].id]
    judged = alike.bound(rows)["claims"].set_index("claim")["verdict"]
    assert judged["the bound holds in every matrix-step: coordinates, rank 4"] == claims.HOLDS
    result = alike.one_trajectory(rows)
    assert set(result["figures"]) == {"ratio", "cosine"}
    assert set(result["tables"][""]["steps"]) == {"all", "after 5"}
    assert (result["claims"]["verdict"] == claims.OPEN).all()  # one seed
    by_step = trajectory.steps(found)
    np.testing.assert_allclose(by_step["distance_normalised"] ** 2, 2 * (1 - by_step["cosine"]), atol=1e-9)
    assert len(trajectory.averaged(by_step)) == 2 * 2 * 3


def test_rows_survive_a_cut_anywhere_and_name_their_matrix(tmp_path: Path) -> None:
    path = tmp_path / "t.0.probes"
    collector = Collector(path, {"schema": 1, "matrices": ["a", "b"]}, indices=3)
    collector.step = 7
    values = torch.arange(20.0).reshape(2, 10)
    collector({"phi": values, "limiter": torch.ones(2, 1)}, ["a", "b"])
    collector.vector("energy", torch.tensor([0.5, 0.25]))
    points = collector.flush(1.0, 64)
    assert [(p.name, p.param, p.value) for p in points] == [
        ("phi", "a", 4.5),
        ("phi", "b", 14.5),
        ("limiter", "a", 1.0),
        ("limiter", "b", 1.0),
    ]
    rows = read_probes.read(path).rows
    assert [(row.step, row.name, row.param, row.length) for row in rows] == [(7, "phi", "a", 10), (7, "phi", "b", 10), (7, "energy", "", 2)]
    assert rows[0].values.tolist() == values[0, list(probes.sampled("a", 10, 3) or ())].tolist()
    whole = path.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert len(read_probes.read(path).rows) in (0, 1, 2)
    path.write_bytes(b"not probes")
    with pytest.raises(ValueError, match="not a file of probes"):
        read_probes.read(path)


def test_indices_depend_on_the_name_alone() -> None:
    first = probes.sampled("layers.0.mlp.up.weight", 352, 100)
    probes.sampled.cache_clear()
    assert first == probes.sampled("layers.0.mlp.up.weight", 352, 100)
    assert first is not None
    assert len(set(first)) == 100
    assert max(first) > 300
    assert first != probes.sampled("layers.1.mlp.up.weight", 352, 100)
    assert probes.sampled("x", 80, 100) is probes.sampled("x", 80, None) is None


def test_pending_values_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    one, other = (Collector(tmp_path / f"{name}.0.probes", {"schema": 1}, indices=None) for name in "ab")
    one.step = 3
    one({"phi": torch.rand(1, 6)}, ["w"])
    one.vector("energy", torch.rand(4))
    torch.save(one.state(), tmp_path / "state")
    other.restore(torch.load(tmp_path / "state", weights_only=True))
    assert one.flush(0.0, 0) == other.flush(0.0, 0)
    assert (tmp_path / "a.0.probes").read_bytes() == (tmp_path / "b.0.probes").read_bytes()


@pytest.mark.parametrize("decay", ["coupled", "before", "after"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16"])
def test_phi_of_any_adam_is_that_of_its_moments(decay: Any, state_dtype: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(8, 12, generator=generator))
    members = [Named("w", parameter)]
    optimizer = dense.adam(members, lr=1e-3, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.0, decay=decay, state_dtype=state_dtype)
    m, v = torch.zeros(8, 12), torch.zeros(8, 12)
    for t in range(1, 4):
        parameter.grad = torch.randn(8, 12, generator=generator)
        m, v = 0.9 * m + 0.1 * parameter.grad, 0.99 * v + 0.01 * parameter.grad**2
        optimizer.step()
        psi = m / (v.sqrt() + 1e-4 * (1.0 if decay == "after" else (1 - 0.99**t) ** 0.5))
    [(found, names)] = list(probes.of_adam([optimizer], {id(parameter): "w"}))
    assert names == ["w"]
    assert parameter.grad is not None
    tolerance = 1e-5 if state_dtype == "fp32" else 2e-2
    torch.testing.assert_close(found["phi"][0], psi.norm(dim=0) / parameter.grad.norm(dim=0), rtol=tolerance, atol=0)
    torch.testing.assert_close(found["phi_matrix"][0, 0], psi.norm() / parameter.grad.norm(), rtol=tolerance, atol=0)


def test_at_full_rank_a_shadow_of_the_projection_is_the_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(12, 6, generator=generator))
    observer = Observer(Shadow(ranks=(6,), gap=100, bases=("coordinates",)), [Named("w", parameter)], 0, (0.9, 0.99), 1e-8)
    collector = Collector()
    for t in range(1, 5):
        parameter.grad = torch.randn(12, 6, generator=generator)
        collector.pending.clear()
        observer.observe(t, collector)
    found = {held.key: held.values_b for held in collector.pending if isinstance(held, probes.Vector)}
    torch.testing.assert_close(found["shadow.phi.R@6.coordinates"], found["shadow.phi.G"])
    assert found["shadow.energy@6.coordinates"].item() == pytest.approx(1)


def test_what_an_observation_may_be() -> None:
    nano = catalog.workload("llama_nano", {"steps": 120})
    assert observation.plain({}, nano) == {}
    full = observation.plain({"shadow": {"ranks": [{"fraction": 0.25}]}}, nano)
    assert full == {"indices": 100, "shadow": {"ranks": [32], "gap": 24, "bases": ["svd", "coordinates"]}}
    assert observation.parse(full).shadow == Shadow(ranks=(32,), gap=24)
    for given, words in (
        ({"indexes": 3}, "observe has no setting 'indexes'; did you mean 'indices'"),
        ({"indices": 0}, "indices = 0: expected a whole number of at least 1, or null for all"),
        ({"shadow": {"gap": 3}}, "observe: shadow: expected ranks"),
        ({"shadow": {"ranks": []}}, "expected ranks and a gap of at least 1"),
        ({"shadow": [4]}, "expected a mapping, such as"),
    ):
        with pytest.raises(ValueError, match=words):
            observation.plain(given, nano)


def test_an_empty_observation_leaves_identities_as_they_were() -> None:
    assert trial(observe={}).id == trial().id
    assert trial(probes_every=3, observe=SHADOW).id != trial(probes_every=3).id


def test_relative_values_follow_the_workload(tmp_path: Path) -> None:
    def trials(entry: str, workload: str = "llama_nano", extra: str = "") -> list[Trial]:
        (tmp_path / "s.yaml").write_text(f"study: s\nworkload: {workload}\n{extra}trials: [{entry}]\n")
        return study.read(tmp_path / "s.yaml")

    ranks = "{submission: fira, sweep: {rank: [{fraction: 0.25}, {fraction: 1.0}, {fraction: 0.001}]}}"
    assert [t.hyperparameters["rank"] for t in trials(ranks)] == [32, 128, 1]
    assert [t.hyperparameters["rank"] for t in trials(ranks, "llama_60m")] == [128, 512, 1]
    at = "at: {llama_nano: {fira: {gap: 40, lr: 0.5}}}\n"
    gaps = "{submission: fira, sweep: {gap: [{times: 0.5}, null]}, set: {lr: {times: 2}}}"
    assert [(t.hyperparameters["gap"], t.hyperparameters["lr"]) for t in trials(gaps, extra=at)] == [(20, 1.0), (None, 1.0)]
    for entry, words in (
        ("{submission: fira, set: {rank: {fraction: 2}}}", "expected a number above 0 and up to 1"),
        ("{submission: fira, set: {basis: {times: 2}}}", "expected a number times a number, but the value here is 'svd'"),
    ):
        with pytest.raises(ValueError, match=words):
            trials(entry)
    with pytest.raises(ValueError, match="shadow is measured on the grid of the probes: expected probes_every too"):
        trials("{submission: adam}", extra="observe: {shadow: {ranks: [4]}}\n")
