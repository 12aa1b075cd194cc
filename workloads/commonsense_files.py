"""Prepared commonsense data: the checked task files in one folder, and `tasks.json`, which has their hashes.

What is kept is text, so one preparation serves every tokenizer, template and length.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workloads.commonsense_tasks import MIXTURE, TASKS, Example, read_test, read_train
from workloads.prepared import data_root
from workloads.shards import replace_file, sha256_of

INDEX = "tasks.json"
FORMAT = 1


@dataclass(frozen=True)
class File:
    """A task file and what it must contain."""

    path: str
    """Relative to the folder."""
    sha256: str
    examples: int


@dataclass(frozen=True)
class Index:
    """What a folder of commonsense data holds."""

    train: tuple[File, ...]
    """`commonsense_170k.json`, or the tasks' own training files in the order of `TASKS`."""
    test: dict[str, File]
    """By task."""
    source: str
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """Identifies the text, not where it came from."""
        content = [self.format, [asdict(file) for file in self.train], {task: asdict(file) for task, file in self.test.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def missing(self) -> list[str]:
        """Tasks without a test file."""
        return [task for task in TASKS if task not in self.test]


def prepare(source: Path, out: Path) -> Index:
    """Checks the task files in `source`, then copies them to `out`; the index is written last.

    Raises:
        ValueError: no tests, nothing to train on, or a damaged file.
    """
    tasks = source / "dataset" if (source / "dataset").is_dir() else source
    mixture = [path for path in (source / MIXTURE, source / "ft-training_set" / MIXTURE) if path.exists()][:1]
    train = mixture or [path for task in TASKS if (path := tasks / task / "train.json").exists()]
    test = {task: path for task in TASKS if (path := tasks / task / "test.json").exists()}
    if not test:
        raise ValueError(f"no tests in {source}: expected folders such as {tasks / 'boolq'} with test.json, in the layout of LLM-Adapters")
    if not train:
        raise ValueError(f"nothing to train on in {source}: expected {MIXTURE}, or train.json in a task's folder such as {tasks / 'boolq'}")
    index = Index(
        train=tuple(File(MIXTURE if mixture else _name(path), sha256_of(path), len(read_train(path))) for path in train),
        test={task: File(_name(path), sha256_of(path), len(read_test(path, task))) for task, path in test.items()},
        source=source.resolve().name,
    )
    for path, file in zip((*train, *test.values()), (*index.train, *index.test.values()), strict=True):
        (out / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / file.path)
    replace_file(out / INDEX, json.dumps({"sha256": index.sha256, **asdict(index)}, indent=1))
    return index


def fetch(repository: str) -> Path:
    """The task files of a data set of the Hugging Face hub, in a local folder.

    Raises:
        ValueError: the hub cannot be reached, has no such data set, or the `hub` extra is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(f"--source {repository}: no such folder, and the hub needs: pip install 'slimperf[hub]'") from None
    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=["*.json"]))
    except Exception as error:  # the library has an error of its own for every cause
        raise ValueError(
            f"--source {repository}: no such folder, and no data set of the Hugging Face hub that can be reached "
            f"({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None


def find(data: str) -> Path:
    """The folder of prepared commonsense data, by name or path.

    Raises:
        ValueError: nothing of that name is prepared.
    """
    for folder in (Path(data), data_root() / data):
        if (folder / INDEX).exists():
            return folder
    raise ValueError(
        f"commonsense data {data!r} are not prepared: expected {data_root() / data / INDEX}; "
        f"run: slimperf data prepare commonsense --source DIR --name {data}"
    )


def read_index(folder: Path) -> Index:
    """The description of the data in `folder`.

    Raises:
        ValueError: it is missing, of another format, or was edited.
    """
    path = folder / INDEX
    again = f"prepare the data again: slimperf data prepare commonsense --source DIR --name {folder.name}"
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = row.pop("sha256")
        test = {task: File(**file) for task, file in row["test"].items()}
        index = Index(**{**row, "train": tuple(File(**file) for file in row["train"]), "test": test})
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not describe commonsense data ({error}); {again}") from None
    if index.format != FORMAT or digest != index.sha256:
        raise ValueError(f"{path} was changed after it was written, or is of another version; {again}")
    return index


def verify(folder: Path, index: Index) -> None:
    """Compares every file with its hash.

    Raises:
        ValueError: one is missing or changed; the message names it.
    """
    for file in (*index.train, *index.test.values()):
        path = folder / file.path
        if not path.exists() or sha256_of(path) != file.sha256:
            raise ValueError(
                f"{path} is missing or was changed: delete {folder} and run: "
                f"slimperf data prepare commonsense --source DIR --name {folder.name}"
            )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def train_examples(folder: Path, index: Index) -> list[Example]:
    """All training examples, file after file."""
    return [example for file in index.train for example in read_train(folder / file.path)]


def test_examples(folder: Path, index: Index, task: str) -> list[Example]:
    """The questions of a task.

    Raises:
        ValueError: its test file was not there when the data were prepared.
    """
    if task not in index.test:
        raise ValueError(
            f"{folder} has no tests of {task}: it has {', '.join(index.test)}; put {task}/test.json into the source and prepare the data "
            "again, or choose other tasks"
        )
    return read_test(folder / index.test[task].path, task)
