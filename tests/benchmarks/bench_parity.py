"""The parity table: how far each submission is from the independent implementation that it was held against.

    python tests/benchmarks/bench_parity.py [-k EXPRESSION] [-o results/parity.md]

Runs the parity tests and writes down what they compare: per case the largest difference over all parameters; the bound on it
stands in the test. Cases whose package is not installed are missing from the table; their recorded weights are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import parity  # noqa: E402  # of the tests
import pytest  # noqa: E402

ORACLES = ("torch", "fira", "galore-torch", "apollo-torch", "transformers", "pytorch_optimizer", "bitsandbytes", "flora-opt", "adam-mini")


class Recorder:
    """Notes the largest difference of every comparison by the test that makes it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []
        self._case = ""
        self._compare: Callable[..., dict[str, float]] = parity.largest_difference
        parity.largest_difference = self._noted

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._case = item.name

    def _noted(self, *args: Any, **options: Any) -> dict[str, float]:
        found = self._compare(*args, **options)
        worst = max(found, key=lambda name: found[name])
        self.rows.append((self._case, worst, found[worst]))
        return found


def table(rows: list[tuple[str, str, float]]) -> str:
    """Markdown, in the order of the tests."""
    lines = ["| case | largest difference | in |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{case.removeprefix('test_')}` | {value:.1e} | `{where}` |" for case, where, value in rows)])


def versions() -> str:
    found = []
    for name in ORACLES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", dest="expression", default="", help="as in pytest: which tests")
    parser.add_argument("-o", "--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    files = sorted(str(path) for path in TESTS.glob("test_submissions_*.py") if "largest_difference" in path.read_text(encoding="utf-8"))
    recorder = Recorder()
    code = int(pytest.main(["-q", "--no-header", "-k", options.expression, *files], plugins=[recorder]))
    text = f"""# Parity

Largest difference of any weight after the case's updates (60 where the name does not say otherwise), our submission against the other
implementation on the same gradients, a refresh of the subspace crossed: relative to the largest movement in fp64, to the largest weight in
lower precision. Square, tall and wide matrices, head and norm are in every case. The bound of each stands in its test.
The one case far from zero, of decay before or after the step, holds that two rules differ.

Made by `python tests/benchmarks/bench_parity.py -o results/parity.md` with {versions()}.

{table(recorder.rows)}
"""
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
