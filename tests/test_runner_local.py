"""The local executor, with a worker that writes records and trains nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from runner import launch, local, locks, outcomes, progress, record, status
from tests import fake_records
from tests.planning import trial


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)


def run(folder: Path, *seeds: int, **options: Any) -> dict[int, outcomes.Outcome]:
    ended = local.run_all([trial(seed) for seed in seeds], folder, quiet=True, **options)
    return {outcome.trial.seed: outcome for outcome in ended}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "s").iterdir())


def test_a_finished_trial_runs_once_and_leaves_its_record_alone(tmp_path: Path) -> None:
    first = run(tmp_path, 0)[0]
    second = run(tmp_path, 0)[0]
    assert (first.status, first.ran, second.status, second.ran) == ("reached", True, "reached", False)
    assert left_in(tmp_path) == [f"{trial(0).id}.0.jsonl"]


def test_fresh_adds_an_attempt_to_a_finished_trial(tmp_path: Path) -> None:
    run(tmp_path, 0)
    assert run(tmp_path, 0, fresh=True)[0].ran
    assert len(record.attempts(tmp_path / "s", trial(0).id)) == 2


def test_a_killed_trial_stays_open_and_resumes_on_the_next_call(tmp_path: Path) -> None:
    killed = run(tmp_path, 2)[2]
    assert killed.status == "killed"
    assert "resumes" in str(killed.reason)
    assert status.row(tmp_path / "s", trial(2).id).status == "killed"  # type: ignore[union-attr]  # it was started
    assert launch.exit_code([killed]) == 1
    assert run(tmp_path, 2)[2].status == "reached"


def test_out_of_memory_by_the_kernel_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([5, 6])
    monkeypatch.setattr(outcomes, "oom_kills", lambda: next(counts))
    ended = run(tmp_path, 2)[2]
    assert ended.status == "out_of_memory"
    row = status.row(tmp_path / "s", trial(2).id)
    assert row is not None
    assert (row.status, row.step, row.seconds) == ("out_of_memory", 10, 1.0)


def test_a_crash_becomes_a_failed_row_and_the_others_go_on(tmp_path: Path) -> None:
    ended = run(tmp_path, 3, 0, 5)
    assert [ended[seed].status for seed in (3, 0, 5)] == ["failed", "reached", "failed"]
    assert "Segmentation fault" in str(ended[3].reason)
    assert status.row(tmp_path / "s", trial(3).id).status == "failed"  # type: ignore[union-attr]  # it was started
    assert launch.exit_code(list(ended.values())) == 1
    assert trial(3).id in launch.report(list(ended.values()), tmp_path)
    assert (tmp_path / "s" / local.LOGS / f"{trial(3).id}.log").read_text().strip().endswith("library")


def test_a_full_disk_is_bad_input(tmp_path: Path) -> None:
    ended = run(tmp_path, 4)[4]
    assert ended.status == "refused"
    assert "No space left" in str(ended.reason)
    assert launch.exit_code([ended]) == 2


def test_a_stop_lets_the_worker_end_its_attempt(tmp_path: Path) -> None:
    def stop_when_it_runs() -> None:
        while not record.attempts(tmp_path / "s", trial(1).id):
            if done.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    done = threading.Event()
    thread = threading.Thread(target=stop_when_it_runs)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, 1, 0)
    finally:
        done.set()
        thread.join()
    row = status.row(tmp_path / "s", trial(1).id)
    assert row is not None
    assert row.status == "preempted"
    assert record.attempts(tmp_path / "s", trial(0).id) == []  # it was waiting, and was not begun
    assert {outcome.status for outcome in run(tmp_path, 1, 0).values()} == {"reached"}


def test_a_trial_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    study = tmp_path / "s"
    study.mkdir()
    locks.acquire(study, trial(0).id, pid=os.getppid())
    ended = run(tmp_path, 0)[0]
    assert ended.status == "elsewhere"
    assert str(os.getppid()) in str(ended.reason)
    assert record.attempts(study, trial(0).id) == []


def test_workers_get_their_share_of_the_cores_and_our_packages(tmp_path: Path) -> None:
    run(tmp_path, 0, threads=3)
    start = json.loads(record.path_of(tmp_path / "s", trial(0).id, 0).read_text().splitlines()[0])
    assert start["settings"] == {"threads": 3, "safe_path": "1"}


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    run(tmp_path, 0)
    path = record.path_of(tmp_path / "s", trial(0).id, 0)
    path.write_text(path.read_text().replace('"schema":1', '"schema":99'))
    with pytest.raises(ValueError, match=r"schema 99.*has 1; use another --results"):
        run(tmp_path, 0)


def test_a_results_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot be written.*--results"):
        run(tmp_path, 0)


def test_a_lock_of_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    process = os.spawnlp(os.P_NOWAIT, "true", "true")
    locks.acquire(tmp_path, "t", pid=process)
    os.waitpid(process, 0)
    assert locks.owner(tmp_path, "t") is None
    assert locks.acquire(tmp_path, "t") is None
    assert locks.owner(tmp_path, "t").pid == os.getpid()  # type: ignore[union-attr]  # just acquired


def test_a_process_id_used_again_is_not_the_owner(tmp_path: Path) -> None:
    locks.acquire(tmp_path, "t")
    lock = tmp_path / locks.FOLDER / "t.lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "started": "another boot 1"}))
    assert locks.owner(tmp_path, "t") is None


def test_an_owner_on_another_host_is_believed(tmp_path: Path) -> None:
    locks.acquire(tmp_path, "t")
    lock = tmp_path / locks.FOLDER / "t.lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": f"not-{socket.gethostname()}"}))
    held = locks.acquire(tmp_path, "t")
    assert held is not None
    assert "not-" in str(held)
    locks.sweep(tmp_path)
    assert lock.exists()


def test_of_many_that_want_a_lock_one_gets_it(tmp_path: Path) -> None:
    parents = [os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60") for _ in range(2)]
    answers: list[locks.Owner | None] = []
    try:
        threads = [threading.Thread(target=lambda p=p: answers.append(locks.acquire(tmp_path, "t", pid=p))) for p in parents * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = locks.owner(tmp_path, "t")
        assert winner is not None
        assert answers.count(None) == 4  # the winner asks four times
        assert {answer for answer in answers if answer} == {winner}
    finally:
        for process in parents:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


@pytest.mark.parametrize(
    ("workers", "threads", "load", "said"),
    [(2, 2, 0.0, None), (4, 2, 0.0, "4 workers with 2 threads each on 4 cores"), (1, 1, 9.4, "load 9.4 on 4 cores"), (4, 1, 3.9, None)],
)
def test_warns_of_a_crowded_machine(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, load: float, said: str | None) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    found = progress.crowding(workers, threads, cores=4)
    assert (found is None) if said is None else (found is not None and said in found)
