"""The notebook of the documentation runs from top to bottom and shows what it promises."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest
import records

NOTEBOOK = Path(__file__).parents[1] / "docs" / "analysis.ipynb"


def test_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMPERF_STUDY", str(records.quickstart(tmp_path / "results")))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook chooses its own
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "time to target (s)" in printed
    assert r"\toprule" in printed
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def test_notebook_is_kept_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
