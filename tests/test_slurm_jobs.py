"""The Slurm executor without Slurm: what jobs are made of, what they do on signals, and whose lock counts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from runner import (
    cli,
    local,
    locks,
    outcomes,
    record,
    slurm,
    slurm_array,
    slurm_job,
    slurm_ledger,
    slurm_plan,
    slurm_queue,
    status,
    torchrun,
)
from runner.outcomes import Outcome
from runner.profile import Profile, Resources
from runner.slurm_queue import Task
from runner.trial import Trial
from tests import fake_records, planning

README = Path(__file__).parents[1] / "results" / "README.md"
[START] = [record.decode(line) for line in README.read_text().splitlines() if line.startswith('{"kind":"start"')]


def trial(seed: int) -> Trial:
    return Trial(study="s", workload="llama_nano", submission="adam", hyperparameters={"lr": 1e-3}, seed=seed)


TRIALS = [trial(seed) for seed in range(10)]


@pytest.mark.parametrize(
    ("enough", "most", "sizes"),
    [(0, 100, [1] * 10), (250, 100, [2] * 5), (1e9, 100, [10]), (0, 4, [3, 3, 3, 1]), (0, 1, [10])],
)
def test_packs(enough: float, most: int, sizes: list[int]) -> None:
    packed = slurm_array.packs(TRIALS, {each.id: 100.0 for each in TRIALS}, enough=enough, most=most)
    assert [len(pack) for pack in packed] == sizes
    assert [each for pack in packed for each in pack] == TRIALS


def test_the_script_asks_for_what_the_profile_says(tmp_path: Path) -> None:
    resources = Resources(
        partition="gpu", account="lab", qos="high", constraint="h100", gpus=2, cpus=8, mem="64G", time="4h", array_parallelism=7,
        setup=("module load cuda",), sbatch={"reservation": "night", "exclusive": True, "contiguous": False},
        python="apptainer exec --nv image.sif python",
    )  # fmt: skip
    text = slurm_array.script(resources, "slimperf-s-1", tmp_path / "with space", 20)
    for line in (
        *("--partition=gpu", "--account=lab", "--qos=high", "--constraint=h100", "--gpus-per-node=2", "--cpus-per-task=8"),
        *("--mem=64G", "--time=240", "--array=0-19%7", "--reservation=night", "--exclusive", "--requeue", "--open-mode=append"),
        "--signal=USR2@120",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "contiguous" not in text
    assert text.index("export PYTHONSAFEPATH=1") < text.index("module load cuda") < text.index("apptainer exec")
    assert "srun --unbuffered" in text
    assert "--cpus-per-task=8 apptainer exec --nv image.sif python -u -m submitit" in text, "srun does not take it over from sbatch"


def test_a_single_job_is_no_array(tmp_path: Path) -> None:
    assert "--array" not in slurm_array.script(Resources(), "x", tmp_path, 1)


def test_the_plan_holds_memory_against_the_card() -> None:
    fits, not_fits = (slurm_plan.fit(TRIALS[:2], Resources(gpus=1, gpu_memory=card)) for card in ("80G", "1M"))
    assert "fits into gpu_memory = 80G" in fits[0]
    assert "DOES NOT FIT into gpu_memory = 1M" in not_fits[0]
    assert slurm_plan.cost(10, 5, 7200.0, Resources(gpus=4, nodes=2)).endswith("at most 16 GPU-hours on the clock")


def test_without_slurm_nothing_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm_queue.Silent, match=r"squeue is not on this machine: .*--executor local"):
        slurm_queue.tasks(["slimperf-x"])
    assert slurm_queue.tasks([]) == []
    assert slurm_queue.largest_array() == 1001


def test_a_folder_that_slurm_would_expand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Slurm expands %"):
        slurm.submit(TRIALS[:1], tmp_path / "100%j", Profile())


def test_inside_a_job_only_the_cluster_itself_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    with slurm._outside_of_jobs():
        assert os.environ["SBATCH_ACCOUNT"] == "mine", "a login shell's defaults count"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    with slurm._outside_of_jobs():
        assert [name for name in os.environ if name.startswith("SLURM_")] == ["SLURM_CONF"]
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


def task(entry: slurm_ledger.Submission, index: int, state: str) -> Task:
    return Task(name=entry.name, job=f"9_{index}", index=index, state=state, reason="None")


def test_a_live_place_counts_before_a_later_dead_one(tmp_path: Path) -> None:
    first = slurm_ledger.enter(tmp_path, "llama_nano", [["a"], ["b"]], {})
    second = slurm_ledger.enter(tmp_path, "llama_nano", [["a", "b"]], {})
    assert [entry.token for entry in slurm_ledger.entries(tmp_path)] == [first.token, second.token]
    tasks = [task(first, 0, "RUNNING"), task(first, 1, "TIMEOUT"), task(second, 0, "NODE_FAIL")]
    found = slurm_ledger.places(tmp_path, [first, second], tasks)
    assert (found["a"].submission, found["a"].live) == (first, True)
    assert (found["b"].submission, found["b"].live) == (second, False)


def test_a_retry_that_waits_is_neither_finished_nor_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = TRIALS[0]
    study = tmp_path / chosen.study
    fake_records.write(tmp_path, chosen, "failed")
    entry = slurm_ledger.enter(study, "llama_nano", [[chosen.id]], {}, retried={chosen.id: 0})
    monkeypatch.setattr(slurm_queue, "tasks", lambda names: [task(entry, 0, "PENDING")])
    places = slurm_ledger.places(study, slurm_ledger.entries(study), slurm_queue.tasks([]))
    assert slurm.standing(study, places, status.scan(study)) == (set(), {chosen.id}, set())
    assert slurm.states(study)[chosen.id][0] == "pending"
    writer = record.Writer(record.path_of(study, chosen.id, 1))
    writer.write(fake_records.start(chosen, 1), record.End(status="reached", step=1, seconds={"total": 1.0}, bytes={}))
    writer.close()
    assert slurm.standing(study, places, status.scan(study))[0] == {chosen.id}, "its further attempt is done, though its job still lives"


def test_failures_do_not_count_as_finished_well() -> None:
    done = slurm.Submitted(jobs={}, finished=3, failed=1, in_slurm=0, elsewhere=0)
    assert str(done) == "0 trials submitted, 2 finished before, 1 failed before (see `slimperf status`, `slimperf retry`)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "slurm", "--device", "cuda"], "--device: with --executor slurm the profile decides"),
        (["--executor", "slurm", "--threads", "3"], "--threads: with --executor slurm the profile decides"),
        (["--profile", "p.yaml"], "--profile p.yaml: only jobs have resources; add --executor slurm"),
    ],
)
def test_options_that_the_executor_would_ignore_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "adam", "--workload", "llama_nano", *options]) == 2
    assert message in capsys.readouterr().err


def test_to_cancel_what_is_not_there_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_records.write(tmp_path, TRIALS[0], "failed")
    assert cli.main(["cancel", str(tmp_path), "qqqq"]) == 2
    assert "qqqq: no trial's id begins with it" in capsys.readouterr().err


def test_job_names_survive_hostile_study_names(tmp_path: Path) -> None:
    entry = slurm_ledger.enter(tmp_path / "a, b|c'd $x", "llama_nano", [["a"]], {})
    assert entry.name == f"slimperf-a-b-c-d-x-{entry.token}"


def test_a_job_number_of_another_cluster_means_nothing(tmp_path: Path) -> None:
    entry = slurm_ledger.enter(tmp_path, "llama_nano", [["a"]], {})
    other = Task(name="slimperf-x-0000000000", job="9_0", index=0, state="RUNNING", reason="None")
    assert not slurm_ledger.places(tmp_path, [entry], [other])["a"].live


def test_one_trial_that_cannot_run_leaves_the_others_alone() -> None:
    def run(each: Trial) -> Outcome:
        if each.seed == 1:
            raise OSError(28, "No space left on device")
        return Outcome(trial=each, status="missed")

    ended = slurm_job.run_in_turn(TRIALS[:3], run, lambda: False)
    assert [outcome.status for outcome in ended] == ["missed", "failed", "missed"]
    assert "No space left" in str(ended[1].reason)


def test_a_pack_goes_on_past_every_kind_of_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "WORKER", fake_records.WORKER)
    full, crashing, falling, killed, fine = (planning.trial(seed) for seed in (4, 3, 5, 2, 0))
    pack = slurm_job.Pack(str(tmp_path), tuple(each.to_json() for each in (full, crashing, falling, killed, fine)), "cpu", 1)
    expected = {full.id: "refused", crashing.id: "failed", falling.id: "failed", killed.id: "reached", fine.id: "reached"}
    assert pack() == expected
    assert len(record.attempts(tmp_path / killed.study, killed.id)) == 2, "it went on after the kill"
    told = capfd.readouterr().out
    assert f"{full.id}: refused: its record cannot be written: records: No space left on device; free space" in told
    assert f"{falling.id}: failed: its process ended by exit code 1: it fell over" in told


def test_a_full_disk_stops_a_trial_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner import checkpoint, train

    one = dataclasses.replace(TRIALS[0], overrides={"steps": 3, "batch.sequences": 2, "validation_tokens": 256}, stop="budget")

    def full(path: Path, content: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        assert train.execute(one, tmp_path, checkpoint_seconds=0.0) == "preempted"
    row = status.row(tmp_path / "s", one.id)
    assert row is not None
    assert "Disk quota exceeded" in str(row.reason)
    assert "free space" in str(row.reason)
    path = checkpoint.path_of(tmp_path / "s", one)
    path.parent.mkdir()
    path.write_bytes(b"cut off")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert train.execute(one, tmp_path) == "missed"
    [_, again] = [next(record.lines(path)) for path in record.attempts(tmp_path / "s", one.id)]
    assert isinstance(again, record.Start)
    assert (again.resumed_step, again.settings["checkpoint"]) == (None, "unreadable")


@pytest.mark.parametrize(
    ("devices", "resources", "message"),
    [
        (1, Resources(nodes=2), r"devices = 1, nodes = 2 in the profile: expected a multiple of the nodes"),
        (8, Resources(nodes=2, gpus=2), r"devices = 8, but the profile has gpus = 2 on nodes = 2"),
        (8, Resources(nodes=2, gpus=4), None),
        (4, Resources(cpus=8), None),
    ],
)
def test_devices_must_fit_the_nodes(devices: int, resources: Resources, message: str | None) -> None:
    several = dataclasses.replace(TRIALS[0], overrides={"devices": devices})
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        slurm_array.check([several], resources)


def test_one_torchrun_per_node_meets_at_this_one() -> None:
    line = torchrun.command(["results", "--nodes", "2"], devices=8, nodes=2)
    assert line[:4] == ["srun", "--overlap", "--nodes=2", "--ntasks=2"]
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d"} < set(line)
    [endpoint] = [word.removeprefix("--rdzv-endpoint=") for word in line if word.startswith("--rdzv-endpoint=")]
    assert re.fullmatch(rf"{re.escape(socket.gethostname())}:\d+", endpoint)
    assert line[-5:] == ["-m", "runner.worker", "results", "--nodes", "2"]
    assert "srun" not in torchrun.command([], devices=8)
    text = slurm_array.script(Resources(nodes=2), "x", Path("folder"), 1)
    assert "#SBATCH --nodes=2\n" in text
    assert "--cpus-per-task=1 --nodes=1 --ntasks=1 " in text, "one process runs the job"


@pytest.mark.parametrize(("number", "requeue"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_signals_stop_gently_and_only_the_warning_queues_again(number: signal.Signals, requeue: bool) -> None:
    stopped, over = threading.Event(), threading.Event()
    library = threading.Thread(target=over.wait)  # a thread that was there before and blocks no signal
    library.start()
    with slurm_job.listening(stopped.set) as stop:
        os.kill(os.getpid(), signal.SIGCONT)
        os.kill(os.getpid(), number)
        assert stopped.wait(10)
        assert stop.asked.is_set()
    over.set()
    library.join()
    assert stop.requeue is requeue
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_only_what_a_failed_launch_holds_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, ...]] = []
    lines = ["5|3|PENDING|launch failed requeued held|n", "5|4|PENDING|JobHeldUser|n", "5|5|PENDING|Priority|n"]
    monkeypatch.setattr(slurm_queue, "_ask", lambda *command: said.append(command) or "\n".join(lines))
    tasks = slurm_queue.tasks(["n"])
    assert slurm_queue.release(tasks) == ["5_3"]
    assert said[-1] == ("scontrol", "release", "5_3")
    submission = slurm_ledger.Submission(token="t", name="n", time="", workload="w", packs=[])
    place = slurm_ledger.Place(submission=submission, index=3, task=tasks[0])
    state, sentence = slurm._state(place, None)
    assert state == "pending"
    assert sentence.startswith("job 5_3: launch failed requeued held; the next `slimperf sweep`")


def foreign_lock(study: Path, host: str) -> None:
    owner = dataclasses.asdict(locks.Owner(host=host, pid=1, started="x"))
    (study / locks.FOLDER).mkdir(parents=True)
    (study / locks.FOLDER / "a.lock").write_text(json.dumps(owner))


@pytest.mark.parametrize(
    ("claimed", "running", "taken"), [("9_1", False, True), ("9_1", True, False), ("5_0", True, True), (None, False, False)]
)
def test_a_lock_of_another_host_counts_while_its_job_runs(
    claimed: str | None, running: bool, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(slurm_queue, "running_elsewhere", lambda job: running)
    foreign_lock(tmp_path, "gone-node")
    if claimed:
        slurm_ledger.note_claim(tmp_path, "a", {"host": "gone-node", "job": claimed})
    other = slurm_job.claim(tmp_path, "a")
    assert (other is None) == taken
    if taken:
        assert slurm_ledger.claim_of(tmp_path, "a") == {"host": os.uname().nodename, "job": "5_0"}


def test_a_lock_is_kept_while_slurm_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(job: str) -> bool:
        raise slurm_queue.Silent("squeue failed")

    monkeypatch.setattr(slurm_queue, "running_elsewhere", silent)
    foreign_lock(tmp_path, "busy-node")
    slurm_ledger.note_claim(tmp_path, "a", {"host": "busy-node", "job": "9_1"})
    assert str(slurm_job.claim(tmp_path, "a")) == "process 1 on busy-node"


def test_jobs_that_stand_still_end_the_trial_by_name(tmp_path: Path) -> None:
    study, one = tmp_path / "s", TRIALS[0]
    writer = record.Writer(record.path_of(study, one.id, 0))
    writer.write(dataclasses.replace(START, trial=one.id, attempt=0), record.End(status="preempted", step=4, seconds={}, bytes={}))
    writer.close()
    pack = slurm_job.Pack(str(tmp_path), (one.to_json(),), "cpu", 1)
    for _ in range(slurm_job.ATTEMPTS_WITHOUT_PROGRESS):
        pack._refuse_standstill([one])
        finished = outcomes.finished(study, one)
        assert finished is None
        pack = pack.checkpoint().function
    pack._refuse_standstill([one])
    finished = outcomes.finished(study, one)
    assert finished is not None
    assert finished.status == "failed"
    assert "raise `time` in the profile" in str(finished.reason)
