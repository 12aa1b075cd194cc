"""Records what independent full-rank optimizers do to the test model: `python tests/golden/make_full_rank.py`.

Needs pytorch_optimizer, adam-mini and bitsandbytes; writes a file beside itself for each of `TESTS`.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

TESTS = {"lion": "pytorch_optimizer", "soap": "pytorch_optimizer", "schedule_free": "pytorch_optimizer", "adam_mini": "adam-mini"}
"""Submission and the distribution of its oracle; the test module has `CASES` and `oracle(case, model, patch)`."""


def record(name: str, package: str) -> None:
    from projection import final_weights

    module = importlib.import_module(f"test_submissions_{name}")
    found = {}
    for case in module.CASES:
        with pytest.MonkeyPatch.context() as patch:
            found[case] = final_weights(lambda model: module.oracle(case, model, patch), 60)  # noqa: B023  # called at once
    content = {"oracle": f"{package} {metadata.version(package)}", "torch": metadata.version("torch"), "cases": found}
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or TESTS:
        record(name, TESTS[name])
