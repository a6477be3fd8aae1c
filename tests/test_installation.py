"""Installing the wheel changes nothing that is there: no other Ultralytics, torch or NumPy."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import BIN, REPO, environment, run

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
    (tmp_path / "config").mkdir()  # or it would write its own settings over those of this Ultralytics
    done = run(interpreter, "-c", code, cwd=tmp_path, env={"YOLO_CONFIG_DIR": str(tmp_path / "config")})
    assert done.stdout.splitlines()[-1] == f"{VERSION} 27"


@pytest.mark.nightly  # it downloads 140 MB
def test_a_headless_build_of_ultralytics_keeps_every_file_and_trains_and_exports(wheel, tmp_path):
    """`pip install --no-deps` beside ultralytics-opencv-headless and opencv-python-headless."""
    run(BIN / "python", "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    interpreter = next((tmp_path / "env").glob("[Bb]in/python"), tmp_path / "env/Scripts/python.exe")
    inside = next((tmp_path / "env").glob("[Ll]ib*/**/site-packages"))
    others = tmp_path / "others"  # all else is that of this environment
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.replace("-", "_")
        if not name.startswith(("ultralytics_8", "cv2", "opencv", "ela_yolo", "_ela_yolo")) and name != "ultralytics":
            (others / entry.name).symlink_to(entry)
    (inside / "others.pth").write_text(str(others))

    def pip(*arguments):
        return run(sys.executable, "-m", "pip", "--python", interpreter, *arguments, cwd=tmp_path, timeout=900)

    try:
        pip("install", "--no-deps", "ultralytics-opencv-headless", "opencv-python-headless")
    except AssertionError:
        pytest.skip("the headless builds are not to be had: no registry is in reach")
    theirs = {file: file.read_bytes() for folder in ("ultralytics", "cv2") for file in (inside / folder).rglob("*.*")}
    pip("install", "--no-deps", wheel)
    assert all(file.read_bytes() == content for file, content in theirs.items())

    env = {"YOLO_CONFIG_DIR": str(tmp_path / "config"), "PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}"}
    doctor = run(interpreter, "-m", "ela_yolo", "doctor", cwd=tmp_path, env=env).stdout
    assert "ultralytics/              belongs to ultralytics-opencv-headless\n" in doctor
    assert "cv2/                      belongs to opencv-python-headless\n" in doctor and "all is well" in doctor
    keys = ("data=scenes.yaml", "fraction=0.05", "epochs=1", "imgsz=64", "plots=False", "workers=0")
    yolo = ("-c", "from ultralytics.cfg import entrypoint; entrypoint()")
    keys += (f"project={tmp_path}", "name=run")
    run(interpreter, *yolo, "train", "model=yolov8n-ela.yaml", *keys, cwd=tmp_path, env=env)
    best = tmp_path / "run/weights/best.pt"
    export = ("-m", "ela_yolo", "export", f"model={best}", "format=onnx", "verify=False")
    run(interpreter, *export, cwd=tmp_path, env=env)
    assert best.with_suffix(".onnx").is_file()


@pytest.mark.nightly  # it takes 10 minutes and 6 GB
def test_a_program_frozen_by_pyinstaller_knows_ela(wheel, tmp_path):
    """With the command of docs/installation.md."""
    pip = (BIN / "python", "-m", "pip", "install", "--target")
    run(*pip, tmp_path / "libs", "--no-deps", wheel, cwd=tmp_path)
    try:
        run(*pip, tmp_path / "libs", "pyinstaller", cwd=tmp_path, timeout=300)
    except AssertionError:
        pytest.skip("PyInstaller is not to be had: no registry is in reach")
    code = "import ela_yolo\nfrom ultralytics import YOLO\nprint(len(YOLO('yolov8n-ela.yaml').model.model))"
    (tmp_path / "app.py").write_text(code)
    (line,) = re.findall("`pyinstaller (.*?)`", (REPO / "docs/installation.md").read_text(encoding="utf-8"))
    unused = [word for name in ("ray", "timm", "nncf", "openvino", "IPython") for word in ("--exclude-module", name)]
    env = {"PYTHONPATH": str(tmp_path / "libs")}
    run(BIN / "python", "-m", "PyInstaller", *unused, *line.split(), cwd=tmp_path, env=env, timeout=2400)
    assert run(tmp_path / "dist/app/app", cwd=tmp_path).stdout.splitlines()[-1] == "27"
