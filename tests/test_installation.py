"""Installing the wheel changes nothing that is there: no other Ultralytics, torch or NumPy."""

import re
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from conftest import REPO, environment, run

sys.path.insert(0, str(REPO / "tools"))
import releases

VERSION = "8.3.200"


def test_nothing_is_required_that_does_not_come_with_ultralytics(wheel):
    """So `pip install --no-deps` gives a working plugin beside any other distribution of Ultralytics."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    required = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in re.findall("^Requires-Dist: (.*)$", text, re.M)}
    extras = {re.split(r"[^\w-]", line)[0] for line in re.findall("^Requires-Dist: (.*; extra ==.*)$", text, re.M)}
    theirs = {re.split(r"[^\w-]", line)[0] for line in metadata.requires("ultralytics") if "extra" not in line}
    assert required - extras == {"ultralytics", "torch", "numpy", "matplotlib", "pyyaml", "opencv-python", "filelock"}
    assert required - extras <= {*theirs, "ultralytics", "filelock"}
    assert "filelock" in {re.split(r"[^\w-]", line)[0] for line in metadata.requires("torch")}
    assert not re.findall("^Requires-Dist: onnxruntime.*export", text, re.M)  # of which there are several builds


def test_the_ultralytics_that_is_there_stays(wheel, tmp_path):
    """Without an index, so that a requirement that is not met would be an error and not a download."""
    environment(tmp_path)
    interpreter = next((tmp_path / "env").glob("[Bb]in/python"), tmp_path / "env/Scripts/python.exe")

    def pip(*arguments):
        return run(sys.executable, "-m", "pip", "--python", interpreter, *arguments, cwd=tmp_path).stdout

    try:
        older = releases.wheel(VERSION)
    except subprocess.CalledProcessError:
        pytest.skip(f"Ultralytics {VERSION} is not to be had: no registry is in reach")
    pip("install", "--no-index", "--no-deps", older)
    before = pip("list", "--format=freeze").splitlines()
    assert f"ultralytics=={VERSION}" in before
    pip("install", "--no-index", wheel)
    added = {*pip("list", "--format=freeze").splitlines()} ^ {*before}
    assert {line.partition("==")[0] for line in added} <= {"ela-yolo"}
    code = "from ultralytics import YOLO, __version__; print(__version__, len(YOLO('yolov8n-ela.yaml').model.model))"
    done = run(interpreter, "-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"{VERSION} 27"
