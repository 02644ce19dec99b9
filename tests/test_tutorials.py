"""The tutorials run, and what they show was stored by one clean run."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
MACHINE = re.compile(
    r"/(home|mnt|opt|root|tmp|usr|Users|work)/|[A-Z]:\\\\|site-packages"
)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.mark.slow
def test_it_runs(path, tmp_path, monkeypatch):
    # Also where the package is not installed; without the user's own settings.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=300,  # of a cell
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()  # raises where a cell does
    assert not [file for file in tmp_path.iterdir() if file.name != "ipython"]


def test_its_outputs_are_of_one_clean_run(path):
    cells = [
        c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"
    ]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        assert not cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = output.get("text") or output.data.get("text/plain", "")
            assert not MACHINE.search(text)
            assert "Warning" not in text


def test_it_is_small_and_listed(path):
    assert path.stat().st_size < 700_000
    assert f"tutorials/{path.name}" in (ROOT / "README.md").read_text()
