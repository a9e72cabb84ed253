"""The notebooks run from top to bottom and give the right results."""

import nbclient
import nbformat
import pytest

from tests.helpers import ROOT

SAYS = {"quickstart": "val_total_variation: 0.0", "text": "mean total variation 0.0"}


@pytest.fixture(scope="module", params=SAYS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(name):
    return nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)


def test_no_output_is_stored(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_runs_and_detects_the_surrogate_only(name, notebook, tmp_path):
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    (stolen,) = [line for line in printed.splitlines() if line.startswith("stolen ")]
    (independent,) = [line for line in printed.splitlines() if line.startswith("independent ")]
    assert stolen.endswith("MARK FOUND")
    assert independent.endswith("not found")
    assert SAYS[name] in printed
    assert [output for output in outputs if output.output_type == "display_data"]  # a plot
    assert not [output for output in outputs if output.get("name") == "stderr"]
