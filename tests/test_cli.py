"""The command line as a user meets it: help, exit status, and one line for wrong input."""

import logging
import re
import sys
from pathlib import Path

import pytest
import ultralytics
from conftest import BIN, HOME, OFF, REPO, forked, run

import ela_yolo
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.keys import parse
from ela_yolo.cli.main import main

ELA_YOLO = BIN / "ela-yolo"
IMAGES = HOME / "datasets/ela-yolo-scenes/images/val"


def test_help_and_version(tmp_path):
    printed = run(ELA_YOLO, "--help", cwd=tmp_path).stdout
    assert re.findall("^  ela-yolo ([a-z]+)", printed, re.MULTILINE) == [*COMMANDS, "train"]
    assert run(sys.executable, "-m", "ela_yolo", cwd=tmp_path).stdout == printed
    assert run(ELA_YOLO, "--version", cwd=tmp_path).stdout == f"ela-yolo {ela_yolo.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_a_command_takes_the_examples_of_its_help(command):
    parse(command, command.example.split())
    parse(command, [f"{key.name}={key.example}" for key in command.keys])


def test_help_and_the_usage_of_doctor_need_neither_torch_nor_ultralytics(tmp_path):
    code = """
import sys
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.main import main
lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
assert [main(line) for line in lines] == [0] * len(lines)
wrong = [["model=x.pt"], ["doctor", "mdoel=x"], ["doctor", "model="], ["doctor", "weights=x.pt"]]
assert [main(line) for line in wrong] == [2] * len(wrong)
assert not {"torch", "ultralytics", "numpy", "cv2"} & sys.modules.keys()
"""
    run(sys.executable, "-c", code, cwd=tmp_path)


def test_ultralytics_modes_are_passed_on(tmp_path):
    """Unchanged: a task, a flag without a value, a path with spaces; with ELA, also with ELA_YOLO_AUTOLOAD=0."""
    folder = tmp_path / "my möðel, 2s"
    keys = ["model=yolov8n-ela.yaml", f"source={IMAGES}/0000.jpg", "imgsz=64", "save_txt", f"project={folder}"]
    forked(ELA_YOLO, "detect", "predict", *keys, "name=run", cwd=tmp_path, env=OFF)
    assert (folder / "run/0000.jpg").is_file() and (folder / "run/labels").is_dir()
    assert "yolo TASK MODE ARGS" in forked(ELA_YOLO, "val", "--help", cwd=tmp_path).stdout
    done = forked(ELA_YOLO, "train", "epohcs=1", cwd=tmp_path, ok=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ela-yolo: SyntaxError: 'epohcs' is not a valid YOLO argument" in done.stderr.splitlines()[-1]


COMPARE = "compare models=yolov8n.yaml,yolov8n-ela.yaml"
WRONG = {  # command line -> exit status, what the one line says
    "trian model=x.yaml": (2, "'trian' is not a command, did you mean 'train'?"),
    "settings": (2, "'settings' is not a command; see ela-yolo --help"),
    "model=yolov8n-ela.yaml": (2, "no command in 'model=yolov8n-ela.yaml'; see ela-yolo --help"),
    "insert yolov8n.pt": (2, "'yolov8n.pt' is not key=value, such as model=best.pt"),
    "insert model=": (2, "'model=' is not key=value"),
    "insert": (2, "model= is missing, such as model=best.pt"),
    "insert model=yolov8n.yaml epochs=3": (2, "insert has no key 'epochs'; it has model, after"),
    "insert model=yolov8n.yaml afer=C2f": (2, "insert has no key 'afer', did you mean 'after'?"),
    "insert model=yolov8n.yaml dry_run=perhaps": (2, "dry_run must be True or False, got 'perhaps'"),
    "insert model=yolov8n.yaml lr_mult=high": (2, "lr_mult must be a number, got 'high'"),
    "insert model=yolov8n.yaml gate=open": (1, "gate must be one of paper, residual, identity, got 'open'"),
    "insert model=yolov8n.yaml where=nek": (1, "where must be one of backbone, neck, all, got 'nek'"),
    "insert model=yolov8n.yaml block=CAB": (1, "there is no block CAB; there are ELA"),
    "insert model=yolov8n.yaml save=list.yaml": (1, "list.yaml exists; name another file with save="),
    "insert model=none.yaml": (1, "there is no none.yaml"),
    "insert model=none.pt": (1, "there is no none.pt"),
    "insert model=text.pt": (1, "text.pt cannot be read as a checkpoint"),
    "remove model=yolov8n-ela.yaml layers=six": (2, "layers must be whole numbers such as 6,9, got 'six'"),
    "remove model=yolov8n-ela.yaml layers=4": (1, "layer 4 is not a block; layers= takes 3, 6, 9, 12"),
    "export format=onnx": (2, "model= is missing"),
    "export model=yolov8n.yaml format=onxx": (2, "format=onxx is not a format of Ultralytics, did you mean 'onnx'?"),
    "export model=yolov8n.yaml format=onnx verfy=False": (2, "unknown key 'verfy', did you mean 'verify'?"),
    "export model=yolov8n.yaml format=onnx half": (2, "'half' is not key=value"),
    "verify model=yolov8n.yaml against=none.onnx": (1, "none.onnx does not exist; export it first"),
    "profile model=yolov8n-ela.yaml imgsz=big": (2, "imgsz must be a positive whole number, got 'big'"),
    "profile model=yolov8n.yaml": (1, "model=yolov8n.yaml has no ELA"),
    "profile model=yolov8n-ela.yaml device=gpu": (1, "Invalid CUDA 'device=gpu' requested"),
    "attention model=yolov8n-ela.yaml source=a.jpg max_det=0": (2, "max_det must be a positive whole number, got '0'"),
    "attention model=yolov8n-ela.yaml source=none.jpg": (1, "none.jpg does not exist"),
    "attention model=yolov8n-ela.yaml source=none.jpg save=text.pt": (1, "save=text.pt is a file; name a folder"),
    "ablate model=yolov8n-ela.yaml data=scenes.yaml fraction=0": (1, "fraction must be above 0 and at most 1, got 0"),
    "ablate model=yolov8n.yaml data=scenes.yaml": (1, "model=yolov8n.yaml has no attention block; insert one first"),
    "ablate model=text.pt data=scenes.yaml": (1, "text.pt cannot be read as a checkpoint"),
    "ablate model=yolov8n-ela.yaml data=scenes.yaml save=text.pt": (1, "save=text.pt: the report is a .json file"),
    "verify model=yolov8n.yaml against=a.onnx save=no/a.json": (1, "there is no folder no; create it first"),
    f"{COMPARE} data=scenes.yaml": (2, "seeds= is missing, such as seeds=0,1,2,3,4,5"),
    f"{COMPARE} data=scenes.yaml seeds=a": (2, "seeds must be whole numbers"),
    f"{COMPARE} data=none.yaml seeds=0": (1, "there is no data=none.yaml"),
    f"{COMPARE} data=scenes.yaml seeds=0 epohcs=1": (2, "unknown key 'epohcs', did you mean 'epochs'?"),
    f"{COMPARE} data=scenes.yaml seeds=0 seed=1": (1, "seed= cannot be set in a comparison"),
    f"{COMPARE} data=scenes.yaml seeds=0 out=list.yaml": (1, "list.yaml exists and is not the folder of a comparison"),
    "quickstart epoch=1": (2, "unknown key 'epoch', did you mean 'epochs'?"),
    "quickstart model=yolov8s.pt": (2, "the quickstart has its own model; to train another model: yolo"),
    "quickstart name=mine": (2, "the quickstart has its own name"),
    "quickstart data=one.yaml": (1, "data=one.yaml has one validation image"),
    "quickstart data=list.yaml": (1, "data=list.yaml has no images in its split val"),
    "doctor mdoel=x.pt": (2, "doctor has no key 'mdoel', did you mean 'model'?"),
    "doctor weights=yolov8n.pt": (2, "weights= needs model=, the model to load them into"),
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Ultralytics logs to streams that pytest has closed since
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "list.txt").touch()
    (tmp_path / "one.txt").write_text("./one.jpg\n")
    for name in ("list", "one"):
        content = f"path: {tmp_path}\ntrain: {name}.txt\nval: {name}.txt\nnames: [a]\n"
        (tmp_path / f"{name}.yaml").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    status, message = WRONG[line]
    assert main(line.split()) == status
    errors = capfd.readouterr().err
    own = [text for text in errors.splitlines() if text.startswith("ela-yolo: ")]
    assert len(own) == 1 and message in own[0], errors
    assert "Traceback" not in errors and "\x1b" not in own[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_with_spaces_and_other_letters(tmp_path):
    folder = tmp_path / "my möðel, 2s"
    folder.mkdir()
    rows = "nc: 1\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [-1, 1, C2f, [8]]\nhead:\n  - [[-1], 1, Detect, [nc]]\n"
    (folder / "yolov8n own.yaml").write_text(rows)
    forked(ELA_YOLO, "insert", f"model={folder}/yolov8n own.yaml", f"save={folder}/mít ELA.yaml", cwd=tmp_path)
    assert "ELA, [{gate: identity, lr_mult: 100}]]" in (folder / "mít ELA.yaml").read_text()


def test_the_exit_status_reaches_the_shell(tmp_path):
    done = run(ELA_YOLO, "trian", cwd=tmp_path, ok=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ela-yolo: 'trian' is not a command, did you mean 'train'?\n"
    tool = run(sys.executable, REPO / "tools/export.py", "epohcs=1", cwd=tmp_path, ok=False)
    assert (tool.returncode, tool.stderr) == (2, "ela-yolo: unknown key 'epohcs', did you mean 'epochs'?\n")


def test_insert_and_remove_write_what_they_print(tmp_path):
    dry = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after=4,6", "dry_run=True", cwd=tmp_path).stdout
    assert dry.endswith("nothing written (dry_run=True)\n") and not list(tmp_path.iterdir())
    done = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after=4,6", cwd=tmp_path).stdout
    assert done.splitlines()[:-1] == dry.splitlines()[:-1]
    assert done.splitlines()[-3:] == [
        "+  - [[17, 20, 23], 1, Detect, [nc]] # Detect(P3, P4, P5)",
        "ELA follows 4 C2f, 6 C2f",
        "written to yolov8n-ela-mine.yaml",  # older releases would load the packaged YAML instead of yolov8n-ela.yaml
    ]
    forked(ELA_YOLO, "insert", "model=yolov8n-ela-mine.yaml", "after=15", "save=more.yaml", cwd=tmp_path)
    again = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after=4", "save=more.yaml", cwd=tmp_path, ok=False)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        1,
        "ela-yolo: more.yaml exists; name another file with save=, or replace it with exist_ok=True",
    )
    forked(ELA_YOLO, "remove", "model=more.yaml", cwd=tmp_path)
    original = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
    assert (tmp_path / "more-plain.yaml").read_bytes() == original.read_bytes()


def test_public_names_are_true():
    for name in ela_yolo.__all__:
        assert getattr(ela_yolo, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ela_yolo.nothing
