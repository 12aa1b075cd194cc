"""Records what the badam package does to a small LLaMA: `python tests/golden/make_badam.py`. Needs badam."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

if __name__ == "__main__":
    import test_submissions_badam as test

    cases = {case: {name: test.summary(moved) for name, moved in test.package_movement(test.CASES[case]).items()} for case in test.CASES}
    content = {"oracle": f"badam {metadata.version('badam')}", "torch": metadata.version("torch"), "cases": cases}
    (HERE / "badam.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
