"""Notebooks: the extension for processes that ran before the installation, and the example."""

import os

import nbformat
import pytest
from conftest import FEW, REPO, python
from nbclient import NotebookClient

import ela_yolo

NOTEBOOK = REPO / "examples/first_detector.ipynb"

EXTENSION = """
import sys  # as in a process that was started before the installation
sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "arms_ela_yolo", False)]
from IPython.core.interactiveshell import InteractiveShell
from ultralytics import YOLO
shell = InteractiveShell.instance()
try:
    YOLO("yolov8n-ela.yaml")
except FileNotFoundError as error:
    print(error)
for magic in ("load_ext", "reload_ext"):
    shell.run_line_magic(magic, "ela_yolo")
    print(sum(type(m).__name__ == "ELA" for m in YOLO("yolov8n-ela.yaml").model.modules()))
"""


def test_the_extension_registers_ela_where_ultralytics_was_imported_before(tmp_path):
    done = python(EXTENSION, cwd=tmp_path, env={"IPYTHONDIR": str(tmp_path)})
    error, *built = done.stdout.splitlines()[-3:]
    assert "yolov8-ela.yaml' does not exist" in error and built == ["4", "4"]
    assert "not an IPython extension" not in done.stdout and not done.stderr


def printed(cells):
    """Cell -> what it printed."""
    return {cell.id: "".join(out.text for out in cell.outputs if out.output_type == "stream") for cell in cells}


@pytest.fixture
def notebook():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_outputs_in_the_notebook_are_of_one_run_that_ended_well(notebook):
    assert NOTEBOOK.stat().st_size < 300_000
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [out for cell in cells for out in cell.outputs]
    assert {out.output_type for out in outputs} == {"stream", "display_data"}
    assert {out.name for out in outputs if out.output_type == "stream"} == {"stdout"}
    text = "".join(printed(cells).values())
    for word in ("Error", "WARNING", "Traceback", "/home", "/root", "/tmp", "/usr", ":\\"):
        assert word not in text
    assert "matches within the float32 tolerance" in text


@pytest.mark.nightly
def test_the_notebook_runs(notebook, sure, tmp_path, monkeypatch):
    """In a process without ELA, for an epoch on eight scenes from weights that find something; installs nothing."""
    scenes = FEW.read_text(encoding="utf-8").replace("val: few.txt", "val: images/val")
    (tmp_path / "few.yaml").write_text(scenes.replace("train: images/train", "train: few.txt"), encoding="utf-8")
    install, parameters = [cell for cell in notebook.cells if cell.metadata.get("tags")]
    assert install.source.startswith("%pip install ") and parameters.source.startswith("DATA, EPOCHS, SIZE = ")
    install.source = ""
    ela_yolo.remove(sure, save=tmp_path / "plain.pt")
    parameters.source = "DATA, EPOCHS, SIZE, WEIGHTS = 'few.yaml', 1, 96, 'plain.pt'"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")})

    said = printed(code_cells(notebook))
    assert "layer 3 is ELA-B, gate identity, for 32 channels\n" in said["train"]
    counts, word = said["find"].split("] ")
    assert word == "detections\n" and sum(map(int, counts.strip("[").split(", "))) > 0
    for cell in code_cells(notebook):
        shown = [out for out in cell.outputs if out.output_type == "display_data"]
        assert len(shown) == (cell.id in ("find", "look"))
        assert all(len(out.data["image/jpeg"]) > 10_000 for out in shown)
    assert said["ablate"].count(", ELA-B identity |") == 4
    assert "the file matches within the float32 tolerance" in said["export"]
    assert (tmp_path / "last.onnx").is_file()
