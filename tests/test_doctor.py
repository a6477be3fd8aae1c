"""``ela-yolo doctor`` on a whole installation and on each kind of broken one, in fresh interpreters."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torchvision
import ultralytics
from conftest import BIN, REPO, environment, forked, run


def doctor(*arguments, cwd, interpreter=None, env=None):
    """Of an interpreter; without one, of this environment, where the command itself may be in a child of another."""
    command = [BIN / "ela-yolo"] if interpreter is None else [interpreter, "-m", "ela_yolo"]
    env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **(env or {})}
    done = (run if interpreter else forked)(*command, "doctor", *arguments, cwd=cwd, env=env, ok=False)
    assert "Traceback" not in done.stderr
    return done


def overlay(folder, package):
    """A copy of an installed package that is found before it, with its metadata."""
    source = Path(package.__file__).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "assets"))
    for info in source.parent.glob(f"{source.name}-*.dist-info"):
        shutil.copytree(info, folder / info.name)
    return {"PYTHONPATH": str(folder)}


def test_a_whole_installation(tmp_path):
    done = doctor("model=yolov8s-ela.yaml", "weights=yolov8s.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("all is well\n") and "WRONG" not in done.stdout
    for line in (
        f"{REPO / 'cfg/yolov8-ela.yaml'}\n",
        "s, from the name\n",
        "4 (ELA-B identity) as layers 3, 6, 9, 12\n",
        "355/355 pretrained tensors kept; 4 new ELA (3, 6, 9, 12)\n",
        f"ultralytics               {ultralytics.__version__}, ",
        f"torchvision               {torchvision.__version__}, ",
        "a new process             knows ELA\n",
    ):
        assert line in done.stdout


def test_a_checkpoint(trained, tmp_path):
    done = doctor(f"model={trained}/weights/best.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "n, as it was trained\n" in done.stdout and "4 (ELA-B paper) as layers 3, 6, 9, 12\n" in done.stdout


def test_a_name_without_a_scale_and_weights_of_another_family(tmp_path):
    done = doctor("model=yolov8-ela.yaml", "weights=yolo11n.yaml", cwd=tmp_path)
    assert "n, the first of n, s, m, l, x: the name has no scale\n" in done.stdout
    assert done.returncode == 1 and "take those of the same family and scale" in done.stdout


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("none.pt", "there is no none.pt"),
        ("best.onnx", "model=best.onnx is neither a model YAML nor a checkpoint"),
        ("unread.yaml", "ELA row 2 is read by no layer"),
    ],
)
def test_a_model_that_cannot_be_used(model, said, tmp_path):
    (tmp_path / "unread.yaml").write_text(
        "nc: 1\nbackbone:\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, ELA, []]\n"
        "head:\n  - [[1], 1, Detect, [nc]]\n"
    )
    done = doctor(f"model={model}", cwd=tmp_path)
    assert done.returncode == 1 and said in done.stdout and done.stdout.endswith("\n1 wrong\n")


def test_switched_off(tmp_path):
    done = doctor(cwd=tmp_path, env={"ELA_YOLO_AUTOLOAD": "0"})
    assert done.returncode == 1
    assert "does not know ELA: switched off by ELA_YOLO_AUTOLOAD=0\n       -> unset ELA_YOLO_AUTOLOAD" in done.stdout


def test_an_environment_that_it_is_not_installed_in(tmp_path):
    """The package is found by its path, as in a folder of a clone, and no .pth file is there."""
    environment(tmp_path)
    interpreter = tmp_path / "env" / BIN.name / "python"
    done = doctor(cwd=tmp_path, interpreter=interpreter, env={"PYTHONPATH": str(REPO)})
    assert done.returncode == 1
    for line in (
        "a new process             does not know ELA: Python did not read ela_yolo.pth in site-packages\n       ->",
        f"{BIN}/yolo runs {sys.executable}, not this Python",
    ):
        assert line in done.stdout


def test_an_environment_with_nothing_in_it(tmp_path):
    """It is what must work where nothing else does."""
    run(BIN / "python", "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    interpreter = tmp_path / "env" / BIN.name / "python"
    done = doctor("model=best.pt", cwd=tmp_path, interpreter=interpreter, env={"PYTHONPATH": str(REPO)})
    assert done.returncode == 1
    for name in ("torch", "torchvision", "ultralytics"):
        command = f"{interpreter} -m ensurepip && {interpreter} -m pip install {name}"
        assert f"WRONG  {name:24}  is not installed\n       -> {command}\n" in done.stdout


def test_two_distributions_that_own_one_package(tmp_path):
    """As ultralytics and ultralytics-opencv-headless do, which overwrite each other's files."""
    for name, module in (("ultralytics-opencv-headless", "ultralytics"), ("opencv-python-headless", "cv2")):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{module}\n")
    done = doctor(cwd=tmp_path, interpreter=sys.executable, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stdout.endswith("\n2 wrong\n")
    assert "ultralytics/              ultralytics and ultralytics-opencv-headless overwrite each other's" in done.stdout
    pip = f"{sys.executable} -m pip"
    uninstall = f"{pip} uninstall -y opencv-python opencv-python-headless"
    assert f"-> {uninstall} && {pip} install --no-deps opencv-python-headless\n" in done.stdout
    assert "onnxruntime/              belongs to onnxruntime\n" in done.stdout


SHELL = "#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n"


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("#!/somewhere/else/bin/python3.11\n", True),
        (SHELL.format("/some where/else/bin/python"), True),
        (SHELL.format(sys.executable), False),
        ("#!/usr/bin/env bash\nexec pyenv exec yolo\n", False),
        ("", False),
    ],
)
def test_the_yolo_command(script, wrong, tmp_path, monkeypatch):
    from ela_yolo.cli.doctor import _yolo_command

    (tmp_path / "yolo").write_text(script)
    (tmp_path / "yolo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (_yolo_command().remedy is not None) is wrong


def test_a_torchvision_that_does_not_fit(tmp_path):
    """Without its compiled part it fails as one does that was built for another torch."""
    done = doctor(cwd=tmp_path, env=overlay(tmp_path, torchvision))
    assert done.returncode == 1
    assert "cannot be imported: RuntimeError: operator torchvision::nms does not exist\n" in done.stdout
    assert f"{sys.executable} -m pip install --force-reinstall torch torchvision" in done.stdout


@pytest.mark.parametrize("version", [pytest.param("9.0.0", marks=pytest.mark.nightly), ultralytics.__version__])
def test_an_ultralytics_that_is_not_as_expected(version, tmp_path):
    """Newer than any that was tested, or one whose files were edited."""
    from ela_yolo.host.probes import TESTED

    env = overlay(tmp_path, ultralytics)
    file = tmp_path / "ultralytics/nn/tasks.py"
    file.write_text(
        file.read_text()
        + "\n\n_parse = parse_model\n\ndef parse_model(d, ch, *, verbose=True):\n    return _parse(d, ch, verbose)\n"
    )
    init = tmp_path / "ultralytics/__init__.py"
    init.write_text(init.read_text().replace(f'"{ultralytics.__version__}"', f'"{version}"'))
    done = doctor(cwd=tmp_path, env=env)
    assert done.returncode == 1
    known, pip = f"ela-yolo is tested with {TESTED[0]} to {TESTED[1]}, ", f"{sys.executable} -m pip install"
    remedy = {
        "9.0.0": f"and this is newer: take a newer ela-yolo, or {pip} ultralytics=={TESTED[1]}",
    }.get(version, f"so its files were changed: {pip} --force-reinstall --no-deps ultralytics=={version}")
    sentence = f"ultralytics {version}: ultralytics.nn.tasks.parse_model(d, ch, verbose) is missing; {known}{remedy}"
    assert sentence in done.stdout
    if version != ultralytics.__version__:
        return
    code = "from ultralytics import YOLO; print(len(YOLO('yolov8n.yaml').model.model))"
    plain = run(sys.executable, "-c", code, cwd=tmp_path, env=env)
    assert plain.stdout.splitlines()[-1] == "23"
    assert plain.stderr.splitlines() == [f"ela-yolo is off, and ELA rows will not be known: {sentence}"]


def test_an_ultralytics_with_a_class_named_ela_of_its_own(tmp_path):
    env = overlay(tmp_path, ultralytics)
    file = tmp_path / "ultralytics/nn/tasks.py"
    file.write_text(file.read_text() + "\n\nclass ELA(nn.Identity):\n    pass\n")
    done = doctor("model=yolov8n.yaml", "weights=yolov8n.yaml", cwd=tmp_path, env=env)
    assert done.returncode == 1 and done.stdout.endswith("\n1 wrong\n")
    assert "ELA is <class 'ultralytics.nn.tasks.ELA'> in this Ultralytics" in done.stdout
    assert not done.stderr


def test_a_damaged_start_module(tmp_path):
    (tmp_path / "_ela_yolo_start.py").write_text("def broken(:\n")
    done = doctor(cwd=tmp_path, interpreter=sys.executable, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "does not know ELA: SyntaxError: invalid syntax" in done.stdout
