"""The notebook runs from top to bottom and gives the right results."""

import nbclient
import nbformat
import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_stored(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_runs_and_detects_the_surrogate_only(notebook, tmp_path):
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    (stolen,) = [line for line in printed.splitlines() if line.startswith("stolen ")]
    (independent,) = [line for line in printed.splitlines() if line.startswith("independent ")]
    assert stolen.endswith("MARK FOUND")
    assert independent.endswith("not found")
    assert "val_total_variation: 0.0" in printed
    assert not [output for output in outputs if output.get("name") == "stderr"]
