"""Installing the wheel changes nothing that is there: no other Ultralytics, torch or NumPy."""

import subprocess
import sys

import pytest
from conftest import REPO, environment, run

sys.path.insert(0, str(REPO / "tools"))
import releases

VERSION = "8.3.200"


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
    pip("install", "--no-index", f"{wheel}[export]")
    added = {*pip("list", "--format=freeze").splitlines()} ^ {*before}
    assert {line.partition("==")[0] for line in added} <= {"ela-yolo"}
    code = "from ultralytics import YOLO, __version__; print(__version__, len(YOLO('yolov8n-ela.yaml').model.model))"
    done = run(interpreter, "-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"{VERSION} 27"
