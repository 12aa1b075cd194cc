"""Trials on a real Slurm of one controller and three node daemons, and everything that happens to them there.

After each: one result per trial, equal bit for bit to the local executor's, and nothing left running.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import slurm as tools

from runner import locks, record, slurm, slurm_queue, train
from runner.profile import Profile, Resources
from runner.trial import Trial

SLOW: dict[str, Any] = {"pause": 1.0, "steps": 60}
"""A trial that lasts until a test has done its harm, and then a second."""
PACKED = Profile(default=Resources(time="10m", mem="1500M", pack="20m", array_parallelism=4))
"""Four of the small trials to a job."""

pytestmark = [
    pytest.mark.skipif(not tools.INSTALLED, reason=tools.MISSING),
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tools.Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="slimperf-slurm-", ignore_cleanup_errors=True) as folder,
        tools.running(Path(folder)) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def limited(cluster: tools.Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """A trial longer than its job's time limit. It takes a minute, most of it waiting, so it begins before the other tests."""
    folder = tmp_path_factory.mktemp("limited")
    trials = tools.tiny("limited", seeds=1, folder=folder, pause=1.0, steps=150)
    slurm.submit(trials, folder, Profile(default=Resources(time="2m", signal_delay="50s", mem="1500M")))
    return folder, trials


@pytest.fixture(autouse=True)
def begun(limited: object) -> None:
    """Tests run beside the long trial; those that kill daemons come after it."""


def submitted(trials: list[Trial], results: Path, profile: Profile = tools.PROFILE) -> Path:
    """Hands trials to Slurm and returns the study's folder."""
    handed = slurm.submit(trials, results, profile)
    assert handed.jobs.keys() == {trial.id for trial in trials}
    return results / trials[0].study


def caught(folder: Path, trial: Trial) -> int:
    """Process id of the trial's worker, in the middle of the trial."""
    pid: int = tools.until(lambda: tools.worker_of(folder, trial), what="the trial has begun")
    return pid


def job_of(folder: Path) -> str:
    [task] = tools.live(folder)
    return task.job


def finish(results: Path, trials: list[Trial], tmp_path: Path) -> None:
    folder = results / trials[0].study

    def ended() -> bool:
        tools.release(folder)
        return all(_final(folder, trial) for trial in trials)

    tools.hurry(results)
    tools.until(ended, what="all trials have ended")
    tools.assert_as_local(results, trials, tmp_path)


def sweep_until_done(results: Path, trials: list[Trial], tmp_path: Path) -> None:
    """Submits again and again, as a person does after a crash: Slurm forgets jobs, and holds those that met a node's old ones."""
    folder = results / trials[0].study

    def ended() -> bool:
        slurm.submit(trials, results, tools.PROFILE)
        return all(_final(folder, trial) for trial in trials)

    tools.hurry(results)
    tools.until(ended, what="all trials have ended")
    tools.assert_as_local(results, trials, tmp_path)


def _final(folder: Path, trial: Trial) -> bool:
    ends = tools.ends(folder, trial)
    return bool(ends) and ends[-1].status in record.FINISHED


def test_24_trials_submitted_by_two_people_at_once(tmp_path: Path) -> None:
    trials = tools.tiny("sweep", seeds=24, folder=tmp_path)
    with ThreadPoolExecutor(2) as people:
        first, second = people.map(lambda _: slurm.submit(trials, tmp_path, PACKED), range(2))
    assert sorted([len(first.jobs), len(second.jobs)]) == [0, 24]
    assert len({*first.jobs.values(), *second.jobs.values()}) == 6
    finish(tmp_path, trials, tmp_path)
    assert all(len(record.attempts(tmp_path / "sweep", trial.id)) == 1 for trial in trials)
    again = slurm.submit(trials, tmp_path, tools.PROFILE)
    assert (again.jobs, again.finished) == ({}, 24)


def test_kill_9_of_a_running_trial(tmp_path: Path) -> None:
    trials = tools.tiny("killed", seeds=1, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path)
    os.kill(caught(folder, trials[0]), signal.SIGKILL)
    finish(tmp_path, trials, tmp_path)
    assert len(record.attempts(folder, trials[0].id)) == 2


def test_requeue_by_an_administrator(tmp_path: Path) -> None:
    trials = tools.tiny("requeued", seeds=1, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path)
    caught(folder, trials[0])
    subprocess.run(["scontrol", "requeue", job_of(folder)], check=True)
    tools.until(lambda: tools.ends(folder, trials[0]), what="it has written its checkpoint")
    finish(tmp_path, trials, tmp_path)
    starts = [next(record.lines(path)) for path in record.attempts(folder, trials[0].id)]
    assert isinstance(starts[-1], record.Start)
    assert starts[-1].resumed_step, "it went on from the checkpoint that it wrote when it was told to stop"


def test_preemption_makes_the_job_queue_itself_again(tmp_path: Path) -> None:
    trials = tools.tiny("preempted", seeds=2, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path, Profile(default=Resources(time="10m", mem="1500M", pack="1h")))
    caught(folder, trials[0])
    subprocess.run(["scancel", "--signal=USR2", job_of(folder)], check=True)  # what Slurm sends before it preempts
    tools.until(lambda: tools.ends(folder, trials[0]), what="it has written its checkpoint")
    finish(tmp_path, trials, tmp_path)
    assert [end.status for end in tools.ends(folder, trials[0])] == ["preempted", "missed"]
    assert [end.status for end in tools.ends(folder, trials[1])] == ["missed"], "the other trial of the pack had not begun"


def test_one_trial_over_two_nodes_with_divided_state_is_preempted_and_trains_like_one_process(tmp_path: Path) -> None:
    trials = tools.tiny("nodes", seeds=1, folder=tmp_path, devices=2, shard_state=True, evaluate_every=10, **SLOW)
    folder = submitted(trials, tmp_path, Profile(default=Resources(nodes=2, time="10m", mem="2500M")))
    tools.until(lambda: tools.points(folder, trials[0]), what="the trial has begun")
    subprocess.run(["scancel", "--signal=USR2", job_of(folder)], check=True)
    tools.until(lambda: tools.ends(folder, trials[0]), what="it has written its checkpoint")
    tools.hurry(tmp_path)
    tools.until(lambda: _final(folder, trials[0]), what="the trial has ended")
    train.execute(trials[0], tmp_path / "undisturbed")
    alone, together = (tools.points(place, trials[0]) for place in (tmp_path / "undisturbed" / "nodes", folder))
    assert [point[:-1] for point in together] == [point[:-1] for point in alone]
    assert [float(point[-1]) for point in together] == pytest.approx([float(point[-1]) for point in alone], rel=2e-5)
    ends = tools.ends(folder, trials[0])
    assert [end.status for end in ends] == ["preempted", "missed"]
    assert len(ends[-1].extra["bytes_by_rank"]) == 2
    tools.assert_nothing_left(folder)


def test_scancel_and_a_second_sweep(tmp_path: Path) -> None:
    trials = tools.tiny("cancelled", seeds=1, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path)
    caught(folder, trials[0])
    subprocess.run(["scancel", job_of(folder)], check=True)
    tools.until(lambda: not tools.live(folder) and not locks.owner(folder, trials[0].id), what="the job has ended")
    assert [end.status for end in tools.ends(folder, trials[0])] == ["preempted"]
    assert slurm.states(folder)[trials[0].id][0] == "lost"
    submitted(trials, tmp_path)
    finish(tmp_path, trials, tmp_path)


def test_cancel_and_the_words_for_it(tmp_path: Path) -> None:
    trials = tools.tiny("stopped", seeds=2, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path, Profile(default=Resources(time="10m", mem="1500M", array_parallelism=1)))
    caught(folder, trials[0])
    assert slurm.states(folder)[trials[1].id] == ("pending", f"job {tools.live(folder)[0].job.partition('_')[0]}_1: JobArrayTaskLimit")
    assert slurm.cancel(folder) == sorted(trial.id for trial in trials)
    tools.until(lambda: not tools.live(folder) and not locks.owner(folder, trials[0].id), what="the jobs have ended")
    assert {state for state, _ in slurm.states(folder).values()} == {"cancelled"}
    submitted(trials, tmp_path)
    finish(tmp_path, trials, tmp_path)
    assert slurm.logs(folder, trials[0].id), "what the job said is kept"


def test_submitting_again_while_it_runs(tmp_path: Path) -> None:
    trials = tools.tiny("again", seeds=2, folder=tmp_path, **SLOW)
    folder = submitted(trials[:1], tmp_path)
    caught(folder, trials[0])
    second = slurm.submit(trials, tmp_path, tools.PROFILE)
    assert (set(second.jobs), second.in_slurm) == ({trials[1].id}, 1)
    finish(tmp_path, trials, tmp_path)


def test_job_that_never_starts(tmp_path: Path) -> None:
    trials = tools.tiny("never", seeds=1, folder=tmp_path)
    folder = submitted(trials, tmp_path, Profile(default=Resources(partition="brief", time="2m")))
    tools.until(lambda: "PartitionTimeLimit" in slurm.states(folder)[trials[0].id][1], what="Slurm says why")
    state, reason = slurm.states(folder)[trials[0].id]
    assert state == "pending"
    assert reason.endswith("this does not pass by itself: cancel it and correct the profile")
    assert slurm.cancel(folder) == [trials[0].id]
    tools.until(lambda: not tools.live(folder), what="the job is gone")
    submitted(trials, tmp_path)
    finish(tmp_path, trials, tmp_path)


def test_one_failing_trial_stops_no_other(tmp_path: Path) -> None:
    trials = tools.tiny("failing", seeds=2, folder=tmp_path, **SLOW)
    others = tools.tiny("failing", seeds=1, folder=tmp_path, submission="sgd")
    (tmp_path / "unhurried.py").write_text("raise RuntimeError('changed after it was planned')\n")
    folder = submitted([trials[0], *others], tmp_path, Profile(default=Resources(time="10m", mem="1500M", pack="1h")))
    tools.hurry(tmp_path)
    tools.until(lambda: all(_final(folder, trial) for trial in (trials[0], *others)), what="both have ended")
    assert tools.ends(folder, trials[0])[-1].status == "failed"
    assert tools.ends(folder, others[0])[-1].status == "missed"
    tools.until(lambda: not tools.live(folder), what="the job has ended")


def test_refused_resources_leave_nothing_behind(tmp_path: Path) -> None:
    trials = tools.tiny("refused", seeds=1, folder=tmp_path)
    with pytest.raises(ValueError, match=r"sbatch refused the jobs for llama_nano: .*partition.*correct the profile"):
        slurm.submit(trials, tmp_path, Profile(default=Resources(partition="nosuch")))
    assert slurm.states(tmp_path / "refused") == {}


def test_trial_longer_than_the_time_limit(limited: tuple[Path, list[Trial]], tmp_path: Path) -> None:
    results, trials = limited
    tools.until(lambda: tools.ends(results / "limited", trials[0]), what="Slurm has warned the first job")
    finish(results, trials, tmp_path)
    attempts = [list(record.lines(path)) for path in record.attempts(results / "limited", trials[0].id)]
    assert len(attempts) >= 2
    for before, after in itertools.pairwise(attempts):
        end, start = before[-1], after[0]
        assert isinstance(end, record.End)
        assert isinstance(start, record.Start)
        assert (end.status, start.resumed_step) == ("preempted", end.step), "it had time to write its checkpoint"
    assert tools.ends(results / "limited", trials[0])[-1].lost_seconds == 0


def test_node_daemon_killed(cluster: tools.Cluster, tmp_path: Path) -> None:
    trials = tools.tiny("node", seeds=2, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path)
    caught(folder, trials[0])
    for node in ("n1", "n2"):
        cluster.kill(node)
    cluster.start()
    sweep_until_done(tmp_path, trials, tmp_path)


def test_controller_killed_and_restarted(cluster: tools.Cluster, tmp_path: Path) -> None:
    trials = tools.tiny("controller", seeds=2, folder=tmp_path, **SLOW)
    folder = submitted(trials, tmp_path)
    caught(folder, trials[0])
    cluster.kill("slurmctld")
    with pytest.raises(slurm_queue.Silent, match=r"squeue failed.*try again later"):
        slurm.submit(trials, tmp_path, tools.PROFILE)
    cluster.start()
    sweep_until_done(tmp_path, trials, tmp_path)
