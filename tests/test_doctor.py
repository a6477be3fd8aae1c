"""``ela-yolo doctor`` on a whole installation and on each kind of broken one, in fresh interpreters."""

import os
import re
import shutil
import site
import sys
from pathlib import Path

import pytest
import torchvision
import ultralytics
from conftest import BIN, REPO, SHARED, environment, forked, run

COCO = SHARED / "weights/yolov8n.pt"


def doctor(*arguments, cwd, interpreter=None, env=None):
    """Of an interpreter; without one, of this environment, where the command itself may be in a child of another."""
    command = [BIN / "ela-yolo"] if interpreter is None else [interpreter, "-m", "ela_yolo"]
    env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **(env or {})}
    done = (run if interpreter else forked)(*command, "doctor", *arguments, cwd=cwd, env=env, ok=False)
    assert "Traceback" not in done.stderr
    return done


# Without the look at what a new process knows, which is one to start and has no part in what is said of a model.
OF_A_MODEL = """
import sys
from ela_yolo.cli import doctor
from ela_yolo.cli.main import main
doctor._autoload = lambda: doctor.Finding("a new process", "is not looked at")
sys.exit(main(["doctor", *sys.argv[1:]]))
"""


def doctor_of(*arguments, cwd):
    done = forked(sys.executable, "-c", OF_A_MODEL, *arguments, cwd=cwd, ok=False)
    assert "is not looked at" in done.stdout and "Traceback" not in done.stderr
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
    ):
        assert line in done.stdout


def test_a_checkpoint(trained, tmp_path):
    done = doctor_of(f"model={trained}/weights/best.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "n, as it was trained\n" in done.stdout and "4 (ELA-B paper) as layers 3, 6, 9, 12\n" in done.stdout


def test_a_name_without_a_scale_and_weights_of_another_family(tmp_path):
    done = doctor_of("model=yolov8-ela.yaml", "weights=yolo11n.yaml", cwd=tmp_path)
    assert "n, the first of n, s, m, l, x, for the name holds none\n" in done.stdout
    assert done.returncode == 1 and "take those of the same family and scale" in done.stdout


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("yolov8n-elaa.yaml", "there is no yolov8n-elaa.yaml"),
        ("none.pt", "there is no none.pt; name a checkpoint"),
        ("best.onnx", "model=best.onnx is neither a model YAML nor a checkpoint; name a .yaml or a .pt file"),
        ("misspelt.yaml", "there is no module ELAA, did you mean 'ELA'?"),
        ("unread.yaml", "ELA row 2 is read by no layer; raise the numbers of the rows that should read it"),
    ],
)
def test_a_model_that_cannot_be_used(model, said, tmp_path):
    original = (Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8-cls.yaml").read_text()
    (tmp_path / "misspelt.yaml").write_text(original.replace("C2f, [128", "ELAA, [128"))
    (tmp_path / "unread.yaml").write_text(
        "nc: 1\nbackbone:\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, ELA, []]\n"
        "head:\n  - [[1], 1, Detect, [nc]]\n"
    )
    done = doctor_of(f"model={model}", cwd=tmp_path)
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
        "a new process             does not know ELA: ela_yolo.pth is not in site-packages\n       -> in the clone of",
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
        assert f"WRONG  {name:24}  is not installed\n       -> {interpreter} -m pip install {name}\n" in done.stdout
    other = run(
        interpreter, "-m", "ela_yolo", "val", "model=best.pt", cwd=tmp_path, env={"PYTHONPATH": str(REPO)}, ok=False
    )
    assert (other.returncode, len(other.stderr.splitlines())) == (1, 1)


SHELL = "#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n"


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("#!/somewhere/else/bin/python3.11\n", True),
        (SHELL.format("/some where/else/bin/python"), True),
        (SHELL.format(sys.executable), False),
        ("#!/usr/bin/env bash\nexec pyenv exec yolo\n", False),
        ("#!/usr/bin/env python\n", False),
        ("", False),
    ],
)
def test_the_yolo_command(script, wrong, tmp_path, monkeypatch):
    from ela_yolo.cli.doctor import _yolo_command

    (tmp_path / "yolo").write_text(script)
    (tmp_path / "yolo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (_yolo_command().remedy is not None) is wrong


def test_rtdetr(tmp_path):
    done = doctor_of("model=rtdetr-l.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_an_ultralytics_that_is_older_than_any_tested(tmp_path):
    env = overlay(tmp_path, ultralytics)
    init = tmp_path / "ultralytics/__init__.py"
    init.write_text(init.read_text().replace(f'"{ultralytics.__version__}"', '"8.2.100"'))
    done = doctor(cwd=tmp_path, env=env)
    assert done.returncode == 1 and "this is 8.2.100\n       -> " in done.stdout
    assert "pip install -U ultralytics" in done.stdout


def test_a_torchvision_without_its_metadata_hides_the_installed_one(tmp_path):
    shutil.copytree(Path(torchvision.__file__).parent, tmp_path / "torchvision")
    done = doctor(cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert f"{tmp_path / 'torchvision'} hides the installed {Path(torchvision.__file__).parent}" in done.stdout


def test_a_torchvision_that_does_not_fit(tmp_path):
    """Without its compiled part it fails as one does that was built for another torch."""
    done = doctor(cwd=tmp_path, env=overlay(tmp_path, torchvision))
    assert done.returncode == 1
    assert "cannot be imported: RuntimeError: operator torchvision::nms does not exist\n" in done.stdout
    assert "pip install --force-reinstall torch torchvision" in done.stdout


@pytest.mark.parametrize("version", ["9.0.0", "8.2.0", ultralytics.__version__])
def test_an_ultralytics_that_is_not_as_expected(version, tmp_path):
    """Newer than any that was tested, older than the oldest, or one whose files were edited."""
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
    known = f"ela-yolo is tested with {TESTED[0]} to {TESTED[1]}, "
    remedy = {
        "9.0.0": f"and this is newer: pip install ultralytics=={TESTED[1]}, or take a newer ela-yolo",
        "8.2.0": "and this is older: pip install -U ultralytics",
    }.get(version, f"so its files were changed: pip install --force-reinstall --no-deps ultralytics=={version}")
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
    assert (
        "WRONG  block ELA                 is <class 'ultralytics.nn.tasks.ELA'> in Ultralytics, whose rows are left "
        "to it\n       -> give that class another name to have ela-yolo's; all else works\n"
    ) in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "Mine=math:sqrt",
            "Mine is math:sqrt, and a block is a class of torch.nn.Module, not <built-in function sqrt>",
        ),
        ("Mine=torch.nn:Linear", "Mine is torch.nn:Linear, and Linear(64) fails on a map of 64 channels: TypeError: "),
        ("Mine=torch.nn:Flatten", "Mine is torch.nn:Flatten, and Flatten(64) fails on a map of 64 channels: "),
        ("Mine=collections:OrderedDict", "not <class 'collections.OrderedDict'>; mend ELA_YOLO_BLOCKS"),
    ],
)
def test_what_is_no_block_is_not_called_one(entry, said, monkeypatch):
    """By doctor, in a row and by insert alike."""
    from ultralytics.nn.tasks import parse_model

    from ela_yolo import RowError, insert
    from ela_yolo.cli.doctor import _blocks
    from ela_yolo.host.blocks import ENVIRONMENT

    monkeypatch.setenv(ENVIRONMENT, entry)
    (finding,) = _blocks()
    assert finding.state == "is not known" and said in str(finding.remedy)
    with pytest.raises(RowError, match=re.escape(said)):
        parse_model({"backbone": [[-1, 1, "Mine", []]], "head": [], "nc": 1}, 64, False)
    with pytest.raises(RowError, match=re.escape(said)):
        insert("yolov8n.yaml", block="Mine")


SITECUSTOMIZE = """
import os, sys, time
if "-c" in sys.orig_argv:
    open(os.environ["WHERE"], "w").write(os.getcwd())
    time.sleep(float(os.environ["SLEEP"]))
"""


def test_the_new_process_starts_in_an_empty_folder_and_has_a_limit(tmp_path, monkeypatch):
    from ela_yolo.cli import doctor as module

    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WHERE", str(tmp_path / "where"))
    monkeypatch.setenv("SLEEP", "0")
    assert module._autoload().state == f"knows ELA, by {module._startup_file()}"
    where = Path((tmp_path / "where").read_text())
    assert where != tmp_path and not where.exists()  # a folder of its own, which is gone
    monkeypatch.setenv("SLEEP", "60")
    monkeypatch.setattr(module, "PATIENCE", 1)
    assert module._autoload().state == "does not start within 1 s"


@pytest.mark.parametrize(
    ("version", "found"),
    [((3, 14), "ela_yolo.pth"), ((3, 15), "ela_yolo.start"), ((3, 17), "ela_yolo.start"), ((3, 18), "ela_yolo.start")],
)
def test_by_which_file_a_new_process_knows_ela(version, found, tmp_path, monkeypatch):
    """PEP 829: .start files from 3.15 on, and no code in .pth files from 3.18 on."""
    from ela_yolo.cli import doctor as module

    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path / "none"), str(tmp_path)])
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    monkeypatch.setattr(module, "PYTHON", version)
    assert module._startup_file() is None
    (tmp_path / "ela_yolo.pth").touch()
    assert module._startup_file() == (None if version == (3, 18) else tmp_path / "ela_yolo.pth")
    (tmp_path / "ela_yolo.start").touch()
    assert module._startup_file() == tmp_path / found


def test_a_damaged_module_beside_that_file(tmp_path, monkeypatch):
    from ela_yolo.cli import doctor as module

    (tmp_path / "_ela_yolo_start.py").write_text("def broken(:\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    state = module._autoload().state
    assert state == f"does not know ELA, though {module._startup_file()} is there: SyntaxError: invalid syntax"


def test_a_notebook_is_told_what_itself_may_need(monkeypatch):
    """Its own process may be older than the installation, and an error there says of a model that it does not exist."""
    from ela_yolo.cli import doctor as module

    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    assert "notebook" not in module._autoload().state
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert module._autoload().state.endswith("before the installation does after %load_ext ela_yolo")


def test_real_weights(tmp_path):
    if not COCO.is_file():
        pytest.skip(f"no COCO weights: {COCO} is absent")
    assert (
        "355/355 pretrained tensors kept" in doctor_of("model=yolov8n-ela.yaml", f"weights={COCO}", cwd=tmp_path).stdout
    )
