"""The notebook of docs/ is valid, says what the page says, and runs."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebook's tools are in the extra dev")

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def notebook():
    return nbformat.read(DOCS / "python.ipynb", as_version=4)


def test_it_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_its_code_is_the_page_s_script(notebook):
    script = re.search(r"```python translate\.py\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.S)
    assert script is not None
    lines = [line for line in script[1].splitlines() if line and not re.match(r"# \d\. ", line)]
    cells = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines() if line]
    assert cells == lines


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    import nbclient

    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    # Progress is lines of text: nothing that only a browser can show. The last cell's value is the export's directory.
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    told = "".join(output.text for output in outputs if output.get("name") == "stderr")
    results = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "step 20/20 (100%)  loss" in told
    assert re.search(r"^en_de \{'loss': .*'bleu': ", results, re.M)
    assert (tmp_path / "en-de-weights/model.safetensors").is_file()
