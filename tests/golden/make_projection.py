"""Records what independent implementations do to the test model: `python tests/golden/make_projection.py`.

Needs apollo-torch (for testing only: its licence forbids commercial use) and flora-opt; writes apollo.json and flora.json beside itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]


def record(name: str, package: str, cases: list[str], oracle: Callable[..., Any], steps: int) -> None:
    """Writes the weights that `oracle(case, model, patch)` ends at after `steps` updates."""
    from projection import final_weights

    found = {}
    for case in cases:
        with pytest.MonkeyPatch.context() as patch:
            found[case] = final_weights(lambda model: oracle(case, model, patch), steps)  # noqa: B023  # called at once
    content = {"oracle": f"{package} {metadata.version(package)}", "torch": metadata.version("torch"), "cases": found}
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    import test_submissions_apollo as apollo
    import test_submissions_flora as flora

    record("apollo", "apollo-torch", [*apollo.CASES, "mini"], apollo.oracle, 45)
    record("flora", "flora-opt", list(flora.CASES), flora.oracle, 45)
