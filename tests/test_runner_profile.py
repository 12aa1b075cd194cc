"""Resource profiles: what is understood, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import profile

WORKLOADS = ("llama_nano", "llama_1b")


def parsed(text: str) -> profile.Profile:
    return profile.parse(yaml.safe_load(text), WORKLOADS)


def test_a_workload_changes_what_it_names_and_keeps_the_rest() -> None:
    found = parsed("{partition: gpu, time: 4h, gpus: 1, sbatch: {reservation: lab}, workloads: {llama_1b: {time: 1d12h, mem: 80G}}}")
    big, other = found.for_workload("llama_1b"), found.for_workload("llama_nano")
    assert (big.partition, big.limit_seconds, big.mem, big.gpus) == ("gpu", 36 * 3600, "80G", 1)
    assert (other.partition, other.limit_seconds, other.mem, other.sbatch) == ("gpu", 4 * 3600, None, {"reservation": "lab"})
    assert big.device == "cuda"
    assert profile.Resources().device == "cpu"


def test_a_file_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("# all defaults\n")
    assert profile.read(file, WORKLOADS) == profile.Profile()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1d12h", 129600), ("02:30:00", 9000), ("1-12:00:00", 129600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert profile.seconds("time", text) == seconds


@pytest.mark.parametrize(("text", "bytes_"), [("64000", 64000 * 2**20), ("32G", 32 * 2**30), ("1500mb", 1500 * 2**20), ("2TiB", 2**41)])
def test_memory(text: str, bytes_: int) -> None:
    assert profile.memory("mem", text) == bytes_


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"partitoin": "gpu"}, r"unknown key 'partitoin' in a profile; did you mean 'partition'\?"),
        ({"workloads": {"llama_nan": {}}}, r"unknown workload 'llama_nan'; did you mean 'llama_nano'\?"),
        ({"workloads": {"llama_1b": {"tmie": "1h"}}}, r"workloads.llama_1b: unknown key 'tmie'.*'time'"),
        ({"workloads": {"llama_1b": {"workloads": {}}}}, r"unknown key 'workloads'"),
        ({"time": "4"}, r"time = '4': expected a duration with its unit"),
        ({"time": 14400}, r"time = 14400: .*in quotes"),
        ({"time": "1m"}, r"time = '1m': expected 2m or more"),
        ({"time": "5m", "signal_delay": "4m"}, r"signal_delay = '4m': expected at most 230s with time = 5m"),
        ({"gpus": -1}, r"gpus = -1: expected 0 or more"),
        ({"gpus": "two"}, r"gpus = 'two': expected a whole number"),
        ({"cpus": 0}, r"cpus = 0: expected 1 or more"),
        ({"array_parallelism": 0}, r"array_parallelism = 0"),
        ({"mem": "lots"}, r"mem = 'lots': expected an amount of memory"),
        ({"sbatch": {"time": "1h"}}, r"sbatch.time: .* write `time: ...`"),
        ({"sbatch": {"cpus_per_task": 2}}, r"write `cpus: ...`"),
        ({"sbatch": {"no-requeue": True}}, r"sbatch.no-requeue: SlimPerf sets this option itself"),
        ({"setup": "module load cuda"}, r"setup = 'module load cuda': expected a list"),
        (["gpu"], r"expected a mapping such as `partition: gpu`"),
    ],
)
def test_refusals(document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profile.parse(document, WORKLOADS)


def test_messages_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("gpsu: 1\n")
    with pytest.raises(ValueError, match=r"cluster.yaml: unknown key 'gpsu'.*'gpus'"):
        profile.read(file, WORKLOADS)


@pytest.mark.parametrize("time", ["2m", "3m", "10m", "1h", "7d"])
def test_the_warning_never_comes_before_the_job_has_begun(time: str) -> None:
    found = profile.Resources(time=time)
    earliest = found.limit_seconds - found.signal_seconds - profile.EARLY
    assert earliest >= profile.STARTUP
    assert 1 <= found.signal_seconds <= 120
