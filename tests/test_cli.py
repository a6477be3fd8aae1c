"""The command line as a user meets it: help, exit status, and one line for whatever is wrong."""

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ultralytics
from conftest import BIN, REPO, forked, python, run
from ultralytics.cfg import MODES

import ela_yolo
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.help import command_help, overview
from ela_yolo.cli.main import main
from ela_yolo.cli.parsing import parse
from ela_yolo.edit.renumbering import CHOICES

ELA_YOLO = BIN / "ela-yolo"


@pytest.mark.parametrize("command", [[ELA_YOLO], [sys.executable, "-m", "ela_yolo"]])
def test_help_and_version(command, tmp_path):
    assert "ela-yolo quickstart" in run(*command, "--help", cwd=tmp_path).stdout
    assert run(*command, cwd=tmp_path).stdout == run(*command, "--help", cwd=tmp_path).stdout
    assert run(*command, "--version", cwd=tmp_path).stdout == f"ela-yolo {ela_yolo.__version__}\n"


@pytest.mark.parametrize("command", [*dict.fromkeys((*COMMANDS, *MODES)), "detect train"])
def test_each_command_has_help(command, tmp_path):
    printed = run(ELA_YOLO, *command.split(), "--help", cwd=tmp_path).stdout
    assert printed.startswith(f"ela-yolo {command.split()[-1]} ")
    assert re.search(r"\w+=\w+", printed)


def test_the_overview_has_a_line_for_each_command():
    printed = overview(COMMANDS.values())
    assert re.findall("^  ela-yolo ([a-z]+)", printed, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_the_help_of_a_command_says_all_that_the_table_does(command):
    printed = command_help(command)
    usage, words = printed.split("\n\n")[0], " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 120
    for key in command.keys:
        assert f"{key.name}={key.example}" in re.split(r"[\[\]\s]+", usage)
        assert f" {key.name} {key.help}" in words
    for text in (command.summary, *command.about.split("\n\n"), command.other_keys):
        assert text in words


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_the_examples_of_the_table_are_what_its_commands_take(command):
    parse(command, command.example.split())
    for key in command.keys:
        key.read(key.example)


def test_the_help_names_every_choice_of_insert():
    helps = {key.name: key.help for key in COMMANDS["insert"].keys}
    for key, words in CHOICES.items():
        assert set(words) <= set(re.findall(r"\w+", helps[key]))


def test_help_and_the_usage_of_doctor_need_neither_torch_nor_ultralytics(tmp_path):
    code = """
import sys
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.main import main
lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["detect", "train", "--help"]]
assert [main(line) for line in lines] == [0] * len(lines)
wrong = [["model=x.pt"], ["doctor", "mdoel=x"], ["doctor", "model="], ["doctor", "weights=x.pt"]]
assert [main(line) for line in wrong] == [2] * len(wrong)
assert not {"torch", "ultralytics", "numpy", "cv2"} & sys.modules.keys()
"""
    python(code, cwd=tmp_path)


def test_a_mode_that_is_new_in_ultralytics_is_known(monkeypatch, capsys):
    monkeypatch.setattr("ultralytics.cfg.MODES", (*MODES, "distill"))
    assert main(["distill", "--help"]) == 0
    assert capsys.readouterr().out.startswith("ela-yolo distill model=")


WRONG = {  # command line -> exit status, what the one line says
    "trian model=x.yaml": (2, "'trian' is not a command, did you mean 'train'?"),
    "settings": (2, "'settings' is not a command; see ela-yolo --help"),
    "model=yolov8n-ela.yaml": (2, "no command in 'model=yolov8n-ela.yaml'; see ela-yolo --help"),
    "detect model=yolov8n-ela.yaml": (2, "'detect' is a task; name a mode too: train, val, predict, export"),
    "train model=yolov8n-ela.yaml epohcs=3": (2, "unknown key 'epohcs', did you mean 'epochs'?"),
    "train model=yolov8n-ela.yaml epochs": (2, "'epochs' lacks its value, such as epochs=100"),
    "train model=yolov8n-ela.yaml epochs=": (2, "missing 'epochs' value"),
    "train imgsz=[64,": (2, "'imgsz=[64,' has an unmatched '[' or ']' bracket."),
    "train model=yolov8n-ela.yaml data=none.yaml": (1, "there is no data=none.yaml, neither here nor among"),
    "train model=yolov8n-ela.yaml data=scenes.yaml epochs=many": (1, "'epochs=many' is of invalid type str"),
    "train model=none.pt data=scenes.yaml": (1, "there is no none.pt; name a checkpoint (.pt) that is there"),
    "train model=none.yaml data=scenes.yaml": (1, "there is no none.yaml, neither here nor among the YAMLs"),
    "train model=bad-row.yaml data=scenes.yaml": (
        1,
        "ELA row 1 [-1, 1, ELA, ['X']]: variant must be one of T, B, S, L",
    ),
    "train model=not-yaml.yaml data=scenes.yaml": (
        1,
        "not-yaml.yaml is no whole YAML: it ends in line 1",
    ),
    "export format=onnx": (2, "model= is missing, such as model=yolov8n-ela.yaml"),
    "export model=none.pt format=onnx": (1, "there is no none.pt; name a checkpoint (.pt) that is there"),
    "export model=yolov8n.yaml format=paddle": (1, "format=paddle cannot be compared here; add verify=False"),
    "export model=yolov8n.yaml format=engine": (1, "TensorRT needs an NVIDIA GPU"),
    "export model=yolov8n.yaml": (2, "format= is missing, such as format=onnx"),
    "export model=yolov8n.yaml format=onxx verify=False": (
        2,
        "format=onxx is none of Ultralytics', did you mean 'onnx'?",
    ),
    "export model=rtdetr-l.yaml format=onnx": (1, "a model with the head RTDETRDecoder cannot be compared here"),
    "train data=scenes.yaml": (2, "model= is missing, such as model=yolov8n-ela.yaml"),
    "train model=yolov8n-ela.yaml optimizer=foo data=scenes.yaml": (1, "Optimizer 'foo' not found in list of"),
    "train model=far.yaml data=scenes.yaml": (1, "IndexError: list index out of range"),
    "train mode=val model=yolov8n-ela.yaml": (2, "mode= has no place here: write ela-yolo val ..."),
    "train --model=yolov8n.yaml, epohcs=3": (2, "unknown key 'epohcs'"),
    "quickstart mode=val": (2, "mode= has no place here"),
    "quickstart data=one.yaml": (1, "data=one.yaml has one validation image; put a second one there to compare with"),
    "quickstart data=list.yaml": (1, "data=list.yaml has no images in its split val; name a split that has some"),
    "export model=yolov8n.yaml format=onnx verify=perhaps": (2, "verify must be True or False, got 'perhaps'"),
    "export model=yolov8n.yaml format=onnx source=nowhere": (1, "source=nowhere names 0 images"),
    "export model=yolov8n.yaml format=onnx verify=False source=nowhere": (2, "leave one of them out"),
    "export model=none.pt format=onnx verfy=False": (2, "unknown key 'verfy', did you mean 'verify'?"),
    "export model=text.pt format=onnx": (1, "text.pt is not a loadable checkpoint"),
    "verify against=best.onnx": (2, "model= is missing, such as model=best.pt"),
    "verify model=yolov8n.yaml": (2, "against= is missing, such as against=best.onnx"),
    "verify model=yolov8n.yaml against=none.onnx": (1, "none.onnx does not exist; export it first"),
    "verify model=yolov8n.yaml against=text.pt": (1, "has no ending by which Ultralytics knows a format"),
    "verify model=yolov8n.yaml against=none.onnx data=none.yaml": (1, "there is no data=none.yaml"),
    "verify model=yolov8n.yaml against=none.onnx iou=7": (2, "iou must be a number from 0 to 1, got '7'"),
    "verify model=yolov8n.yaml agianst=none.onnx": (2, "verify has no key 'agianst', did you mean 'against'?"),
    "verify model=none.pt against=none.onnx": (1, "there is no none.pt"),
    "profile": (2, "model= is missing, such as model=yolov8n-ela.yaml"),
    "profile model=yolov8n-ela.yaml imgsize=64": (2, "profile has no key 'imgsize', did you mean 'imgsz'?"),
    "profile model=yolov8n-ela.yaml imgsz=big": (2, "imgsz must be a positive number of pixels, got 'big'"),
    "profile model=yolov8n-ela.yaml imgsz=100": (1, "imgsz=100 is not 2 or more times the model's stride 32"),
    "profile model=yolov8n-ela.yaml save=costs.txt": (1, "save=costs.txt: a profile is a .json file"),
    "profile model=yolov8n-ela.yaml save=no/costs.json": (
        1,
        "save=no/costs.json: there is no folder no; make it first",
    ),
    "profile model=yolov8n-ela.yaml device=gpu": (1, "Invalid CUDA 'device=gpu' requested"),
    "profile model=yolov8n.yaml": (
        1,
        "model=yolov8n.yaml has no ELA; put it in first: ela-yolo insert model=yolov8n.yaml",
    ),
    "profile model=none.pt": (1, "there is no none.pt"),
    "attention": (2, "model= is missing, such as model=best.pt"),
    "attention model=yolov8n-ela.yaml": (2, "source= is missing, such as source=images/"),
    "attention model=yolov8n-ela.yaml source=a.jpg max_det=0": (2, "max_det must be a positive whole number, got '0'"),
    "ablate model=yolov8n-ela.yaml": (2, "data= is missing, such as data=my.yaml"),
    "ablate model=yolov8n-ela.yaml data=scenes.yaml fraction=0": (
        2,
        "fraction must be a number above 0 and at most 1, got '0'",
    ),
    "ablate model=yolov8n-ela.yaml data=none.yaml": (1, "there is no data=none.yaml"),
    "ablate model=yolov8n.yaml data=scenes.yaml": (1, "model=yolov8n.yaml has no attention block; insert one first"),
    "remove model=yolov8n-ela.yaml layers=six": (2, "layers must be layer numbers such as 6,9, got 'six'"),
    "remove model=yolov8n-ela.yaml layers=4": (1, "layer 4 is not a block; layers= takes 3, 6, 9, 12"),
    "attention model=yolov8n-ela.yaml source=a.jpg imgsz=-1": (
        2,
        "imgsz must be a positive number of pixels, got '-1'",
    ),
    "attention model=yolov8n-ela.yaml source=none.jpg": (1, "none.jpg does not exist"),
    "attention model=yolov8n-ela.yaml source=folder": (1, "No images or videos found in"),
    "attention model=yolov8n-ela.yaml source=none.jpg save=text.pt": (1, "save=text.pt is a file; name a folder"),
    "attention model=yolov8n.yaml source=none.jpg": (1, "model=yolov8n.yaml has no ELA; put it in first"),
    "compare data=scenes.yaml seeds=0": (2, "models= is missing, such as models=yolov8n.yaml,yolov8n-ela.yaml"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml seeds=0": (2, "data= is missing, such as data=my.yaml"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml": (2, "seeds= is missing, such as seeds=0,1,2"),
    "compare models=yolov8n.yaml data=scenes.yaml seeds=0": (1, "name two models or more, the baseline first"),
    "compare models=yolov8n.yaml,none.yaml data=scenes.yaml seeds=0": (1, "there is no none.yaml"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=a": (1, "seeds must be whole numbers from 0"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=none.yaml seeds=0": (1, "there is no data=none.yaml"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=0 epohcs=1": (2, "did you mean 'epochs'?"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=0 seed=1": (1, "seed= has no place in a"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=0 engine=rya": (1, "engine=rya is not known"),
    "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=0 out=folder.pt/x/y out=list.yaml": (
        1,
        "list.yaml exists and is not the folder of a comparison; name another folder with out=",
    ),
    "insert model=yolov8n.yaml block=CAB": (1, "there is no block CAB, did you mean 'CA'?"),
    "insert model=yolov8n.yaml block=SE variant=S": (1, "variant and gate are ELA's, and SE has neither"),
    "quickstart epoch=1": (2, "unknown key 'epoch', did you mean 'epochs'?"),
    "quickstart verify=False": (2, "unknown key 'verify'"),
    "quickstart model=yolov8s.pt": (2, "the quickstart has its own model; to train another: ela-yolo train model=..."),
    "tune data=scenes.yaml": (2, "model= is missing"),
    "insert": (2, "model= is missing, such as model=best.pt or model=yolov8n.yaml"),
    "insert model=": (2, "'model' lacks its value; see ela-yolo insert --help"),
    "insert yolov8n.pt": (2, "'yolov8n.pt' is not key=value; did you mean model=yolov8n.pt?"),
    "insert model=yolov8n.yaml epochs=3": (2, "insert has no key 'epochs'"),
    "insert model=yolov8n.yaml afer=C2f": (2, "insert has no key 'afer', did you mean 'after'?"),
    "insert model=yolov8n.yaml after=[2,": (2, "has an unmatched '[' or ']' bracket"),
    "insert model=yolov8n.yaml gate=open": (2, "gate must be one of paper, residual, identity, got 'open'"),
    "insert model=yolov8n.yaml dry_run=perhaps": (2, "dry_run must be True or False, got 'perhaps'"),
    "insert model=yolov8n.yaml after=C3": (1, "yolov8.yaml: no C3 in where=backbone; there are: Conv, C2f, SPPF"),
    "insert model=yolov8n.yaml after=23": (1, "yolov8.yaml has no layer 23, only 0 to 22"),
    "insert model=yolov8n-ela.yaml": (1, "layer 2 C2f is followed by its ELA already (layer 3)"),
    "insert model=yolov8n.yaml save=list.yaml": (1, "list.yaml exists; name another file with save="),
    "insert model=yolov8n.yaml save=mine.pt": (1, "save=mine.pt: yolov8.yaml gives a .yaml file"),
    "insert model=none.yaml": (1, "there is no none.yaml, neither here nor among the YAMLs"),
    "insert model=none.pt": (1, "there is no none.pt"),
    "insert model=text.pt": (1, "text.pt cannot be read as a checkpoint"),
    "insert model=list.txt": (1, "model=list.txt is neither a model YAML nor a checkpoint"),
    "insert model=list.yaml": (1, "list.yaml is not a model YAML, or cut off"),
    "insert model=not-yaml.yaml": (1, "not-yaml.yaml is no whole YAML: it ends in line 1"),
    "insert model=tabs.yaml": (1, "tabs.yaml, line 3: a tab where YAML wants spaces; replace it by spaces"),
    "remove model=yolov8n.yaml": (1, "yolov8.yaml has no ELA rows to remove"),
    "remove model=yolov8n-ela.yaml after=3": (2, "remove has no key 'after'"),
    "train model=empty.yaml data=scenes.yaml": (1, "empty.yaml is not a model YAML, or cut off: it has no rows under"),
    "train model=list.yaml data=scenes.yaml": (1, "list.yaml is not a model YAML, or cut off"),
    "train model=binary.yaml data=scenes.yaml": (
        1,
        "binary.yaml cannot be read: it is not UTF-8 text; save it as UTF-8",
    ),
    "train model=no-head.yaml data=scenes.yaml": (1, "it has no rows under 'head:'"),
    "train model=misspelt.yaml data=scenes.yaml": (1, "layer 1: there is no module ELAA, did you mean 'ELA'?"),
    "train model=lower.yaml data=scenes.yaml": (1, "layer 1: ela is ELA here: write [-1, 1, ELA, []]"),
    "train model=word.yaml data=scenes.yaml": (1, "layer 1 is not a row [from, repeats, module, args], but hello"),
    "train model=three.yaml data=scenes.yaml": (
        1,
        "layer 0 is not a row [from, repeats, module, args], but [-1, 1, 'Conv']",
    ),
    "train model=no-nc.yaml data=scenes.yaml": (1, "nc, the number of classes, must be a positive number, got None"),
    "train model=nc.yaml data=scenes.yaml": (1, "nc, the number of classes, must be a positive number, got 'many'"),
    "train model=scales.yaml data=scenes.yaml": (1, "scales must be a mapping such as 'n: [0.33, 0.25, 1024]'"),
    "train model=cut.yaml data=scenes.yaml": (
        1,
        "is no whole YAML: it ends in line 3, within a row or a word; is it cut off?",
    ),
    "train model=tabs.yaml data=scenes.yaml": (1, "tabs.yaml, line 3: a tab where YAML wants spaces"),
    "train model=args.yaml data=scenes.yaml": (
        1,
        "TypeError: '<' not supported between instances of 'float' and 'str'",
    ),
    "train model=folder data=scenes.yaml": (1, "model='folder' should be a *.pt PyTorch model"),
    "train model=folder.pt data=scenes.yaml": (
        1,
        "folder.pt is a folder; name the checkpoint in it, such as folder.pt/best.pt",
    ),
    "train model=folder.yaml data=scenes.yaml": (1, "folder.yaml is a folder; name a model YAML"),
    "train model=run2s/yolov8n-mine.yaml data=scenes.yaml": (
        1,
        "Ultralytics takes the scale out of a folder's name in run2s/yolov8n-mine.yaml and looks for "
        "run2/yolov8n-mine.yaml; rename the folder, or the file yolov8-mine.yaml to yolov8n-mine.yaml",
    ),
    "train model=yolov8n-elaa.yaml data=scenes.yaml": (1, "did you mean 'yolov8n-ela.yaml'?"),
    "val model=empty.pt data=scenes.yaml": (1, "empty.pt is not a loadable checkpoint — the file is empty, truncated"),
    "val model=binary.pt data=scenes.yaml": (1, "binary.pt is not a loadable checkpoint"),
    "val model=cut.pt data=scenes.yaml": (1, "cut.pt is not a loadable checkpoint"),
    "val model=tensor.pt data=scenes.yaml": (1, "AttributeError: 'Tensor' object has no attribute 'model'"),
    "val model=none.onnx data=scenes.yaml": (1, "there is no none.onnx; name a checkpoint (.pt), a model YAML or an"),
    "val model=nothing data=scenes.yaml": (
        1,
        "there is no nothing; name a checkpoint (.pt), a model YAML or an exported file",
    ),
    "train model=yolov8n.yaml data=scense.yaml": (
        1,
        "there is no data=scense.yaml, neither here nor among the data sets that "
        "come along, did you mean 'scenes.yaml'?",
    ),
    "train model=yolov8n.yaml data=empty.yaml": (1, "data=empty.yaml: empty.yaml 'train:' key missing"),
    "train model=yolov8n.yaml data=no-names.yaml": (
        1,
        "data=no-names.yaml: no-names.yaml key missing. either 'names' or 'nc' are required in all data YAMLs.",
    ),
    "train model=yolov8n.yaml data=nowhere.yaml": (1, "images not found, missing path '/nowhere/b'"),
    "train model=yolov8n.yaml data=two-nc.yaml": (1, "'names' length 1 and 'nc: 3' must match"),
    "train model=yolov8n.yaml data=binary.yaml": (1, "data=binary.yaml: "),
    "train model=yolov8n.yaml data=scenes.yaml pretrained=none.pt": (1, "there is no none.pt; name a checkpoint"),
    "train model=yolov8n.yaml data=scenes.yaml resume=none.pt": (1, "there is no none.pt; name a checkpoint"),
    "train model=yolov8n.yaml data=scenes.yaml batch=two": (1, "'batch=two' is of invalid type str"),
    "train model=yolov8n.yaml data=scenes.yaml epochs=-1": (1, "'epochs' must be >= 1"),
    "train model=yolov8n.yaml data=scenes.yaml device=gpu": (
        1,
        "Invalid CUDA 'device=gpu' requested. Use 'device=cpu'",
    ),
    "train model=yolov8n.yaml data=scenes.yaml lr0=fast": (1, "'lr0=fast' is of invalid type str"),
    "val model=yolov8n.yaml data=scenes.yaml imgsz=abc": (1, "'imgsz=abc' is not a valid image size"),
    "predict model=yolov8n.yaml source=none.jpg": (1, "none.jpg does not exist"),
    "predict model=yolov8n.yaml source=folder": (1, "No images or videos found in"),
    "predict model=yolov8n.yaml source=folder conf=2": (1, "'conf=2' is an invalid value"),
    "benchmark model=none.pt": (1, "there is no none.pt"),
    "tune model=none.yaml data=scenes.yaml": (1, "there is no none.yaml"),
    "insert model=binary.yaml": (1, "binary.yaml cannot be read: it is not UTF-8 text"),
    "insert model=binary.pt": (1, "binary.pt cannot be read as a checkpoint"),
    "insert model=cut.pt": (1, "cut.pt cannot be read as a checkpoint"),
    "insert model=dict.pt": (1, "dict.pt holds a NoneType, not a model that was built from a YAML"),
    "insert model=tensor.pt": (1, "tensor.pt cannot be read as a checkpoint"),
    "insert model=folder.yaml": (1, "folder.yaml is a folder; name a model YAML"),
    "insert model=folder.pt": (1, "there is no folder.pt; name a checkpoint (.pt) that is there"),
    "insert model=folder": (1, "model=folder is neither a model YAML nor a checkpoint"),
    "insert model=yolov8n.yaml save=nowhere/x.yaml": (1, "there is no folder nowhere; make it first"),
    "insert model=yolov8n.yaml save=/proc/x.yaml": (1, "/proc/x.yaml cannot be written: No such file or directory"),
    "insert model=yolov8n.yaml save=folder.yaml": (1, "folder.yaml exists; name another file with save="),
    "insert model=yolov8n.yaml save=": (2, "'save' lacks its value"),
    "insert model=yolov8n.yaml after=P9": (1, "no stage at P9 in where=backbone; there are: P2, P3, P4, P5"),
    "insert model=yolov8n.yaml where=nek": (2, "where must be one of backbone, neck, all, got 'nek'"),
    "remove model=empty.pt": (1, "empty.pt cannot be read as a checkpoint"),
    "doctor mdoel=x.pt": (2, "doctor has no key 'mdoel', did you mean 'model'?"),
    "doctor weights=yolov8n.pt": (2, "weights= needs a model= that they go into"),
}


@pytest.fixture
def argv():
    """Ultralytics reads the list that was sys.argv when it was imported, so its content is what is put back."""
    before = sys.argv[:]
    yield
    sys.argv[:] = before


CONV = "[-1, 1, Conv, [8, 3, 2]]"


def model_yaml(*rows, head="[[-1], 1, Detect, [nc]]", start="nc: 1\n"):
    return f"{start}backbone:\n" + "".join(f"  - {row}\n" for row in rows) + f"head:\n  - {head}\n"


def lay_out_bad_files(folder):
    whole = model_yaml(CONV)
    texts = {
        "bad-row.yaml": model_yaml(CONV, "[-1, 1, ELA, [X]]", head="[-1, 1, Classify, [nc]]"),
        "not-yaml.yaml": "backbone: [[[\n",
        "text.pt": "no weights",
        "far.yaml": model_yaml(CONV, head="[[9], 1, Detect, [nc]]"),
        "tabs.yaml": "nc: 1\nbackbone:\n\t- [-1, 1, Conv, [8, 3, 2]]\nhead:\n",
        "list.txt": "",
        "list.yaml": f"path: {folder}\ntrain: list.txt\nval: list.txt\nnames: [a]\n",
        "one.txt": "./one.jpg\n",
        "one.yaml": f"path: {folder}\ntrain: one.txt\nval: one.txt\nnames: [a]\n",
        "empty.yaml": "",
        "empty.pt": "",
        "no-head.yaml": whole.partition("head:")[0],
        "misspelt.yaml": model_yaml(CONV, "[-1, 1, ELAA, []]"),
        "lower.yaml": model_yaml(CONV, "[-1, 1, ela, []]"),
        "word.yaml": model_yaml(CONV, "hello"),
        "three.yaml": model_yaml("[-1, 1, Conv]"),
        "args.yaml": model_yaml("[-1, 1, Conv, [a, b]]"),
        "no-nc.yaml": model_yaml(CONV, start=""),
        "nc.yaml": model_yaml(CONV, start="nc: many\n"),
        "scales.yaml": model_yaml(CONV, start="nc: 1\nscales: 3\n"),
        "cut.yaml": whole[:37],
        "no-names.yaml": "train: a\nval: b\n",
        "nowhere.yaml": "path: /nowhere\ntrain: a\nval: b\nnames: [a]\n",
        "two-nc.yaml": "train: a\nval: b\nnc: 3\nnames: [a]\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name in ("folder", "folder.pt", "folder.yaml", "run2s"):
        (folder / name).mkdir()
    (folder / "run2s/yolov8-mine.yaml").write_text(whole)
    for name in ("binary.yaml", "binary.pt"):
        (folder / name).write_bytes(bytes(range(256)) * 40)
    torch.save({"a": 1}, folder / "dict.pt")
    torch.save(torch.zeros(3), folder / "tensor.pt")
    (folder / "cut.pt").write_bytes((folder / "tensor.pt").read_bytes()[:500])


@pytest.mark.usefixtures("argv")
@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Ultralytics logs to streams that pytest has closed since
    lay_out_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, message = WRONG[line]
    assert main(line.split()) == status
    errors = capfd.readouterr().err
    own = [text for text in errors.splitlines() if text.startswith("ela-yolo: ")]
    assert len(own) == 1 and message in own[0], errors
    assert "Traceback" not in errors
    assert not re.search(r"\x1b", own[0])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("a (1).pt,it's.pt", ["a (1).pt", "it's.pt"]),
        ("a[1].pt, b.yaml", ["a[1].pt", "b.yaml"]),
        ("[a (1).pt, b.pt]", ["a (1).pt", "b.pt"]),
        ("('a.pt','b (2).pt')", ["a.pt", "b (2).pt"]),
        ("['a, b.pt', 'c.pt']", ["a, b.pt", "c.pt"]),
        ("'a.pt',\"b.pt\",", ["a.pt", "b.pt"]),
    ],
)
def test_names_of_models_stay_as_they_are(written, named):
    assert parse(COMMANDS["compare"], [f"models={written}", "data=a.yaml", "seeds=0"])["models"] == named


@pytest.mark.usefixtures("argv")
def test_compare_opens_the_file_that_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a (1).yaml", "b 1.yaml"):
        (tmp_path / name).write_text("backbone: []\n", encoding="utf-8")
    assert main(["compare", "models=a (1).yaml,b (1).yaml", "data=scenes.yaml", "seeds=0"]) == 1
    assert "a (1).yaml is not a model YAML" in capsys.readouterr().err
    (tmp_path / "a (1).yaml").write_text(model_yaml(CONV), encoding="utf-8")
    assert main(["compare", "models=a (1).yaml,b (1).yaml", "data=scenes.yaml", "seeds=0"]) == 1
    assert "there is no b (1).yaml" in capsys.readouterr().err


def test_paths_with_spaces_and_other_letters(tmp_path):
    folder = tmp_path / "my möðel, 2s"
    folder.mkdir()
    (folder / "yolov8n own.yaml").write_text(model_yaml(CONV, "[-1, 1, C2f, [8]]"))
    forked(ELA_YOLO, "insert", f"model={folder}/yolov8n own.yaml", f"save={folder}/mít ELA.yaml", cwd=tmp_path)
    assert "ELA, [{gate: identity}]]" in (folder / "mít ELA.yaml").read_text()
    done = forked(ELA_YOLO, "val", f"model={folder}/nicht da.yaml", "data=scenes.yaml", cwd=tmp_path, ok=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"there is no {folder}/nicht da.yaml" in done.stderr


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read and write everything")
def test_files_that_may_not_be_read_or_replaced(tmp_path):
    (tmp_path / "closed.yaml").write_text(model_yaml(CONV))
    (tmp_path / "closed.yaml").chmod(0)
    (tmp_path / "fixed").mkdir(mode=0o500)
    for arguments in (["model=closed.yaml"], ["model=yolov8n.yaml", "save=fixed/x.yaml"]):
        done = run(ELA_YOLO, "insert", *arguments, cwd=tmp_path, ok=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1) and "Permission denied" in done.stderr


def test_the_exit_status_reaches_the_shell(tmp_path):
    done = run(ELA_YOLO, "trian", cwd=tmp_path, ok=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ela-yolo: 'trian' is not a command, did you mean 'train'?\n"


@pytest.mark.parametrize("name", ["train", "export"])
def test_the_tools_do_the_same_from_a_clone(name, tmp_path):
    tool = run(sys.executable, REPO / "tools" / f"{name}.py", "epohcs=1", cwd=tmp_path, ok=False)
    command = forked(ELA_YOLO, name, "epohcs=1", cwd=tmp_path, ok=False)
    assert (tool.returncode, tool.stderr) == (command.returncode, command.stderr)
    assert tool.returncode == 2


def test_insert_and_remove_write_what_they_print(tmp_path):
    dry = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after=[4, 6]", "dry_run=True", cwd=tmp_path).stdout
    assert dry.endswith("nothing written (dry_run=True)\n") and not list(tmp_path.iterdir())
    done = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after", "=", "4,6", cwd=tmp_path).stdout
    assert done.splitlines()[:-1] == dry.splitlines()[:-1]
    assert done.splitlines()[-3:] == [
        "+  - [[17, 20, 23], 1, Detect, [nc]] # Detect(P3, P4, P5)",
        "ELA follows 4 C2f, 6 C2f",
        "written to yolov8n-ela.yaml",
    ]
    assert "\x1b" not in done
    forked(ELA_YOLO, "insert", "model=yolov8n-ela.yaml", "after=15", "save=more.yaml", cwd=tmp_path)
    again = forked(ELA_YOLO, "insert", "model=yolov8n.yaml", "after=4", "save=more.yaml", cwd=tmp_path, ok=False)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        1,
        "ela-yolo: more.yaml exists; name another file with save=, or replace it with exist_ok=True",
    )
    forked(ELA_YOLO, "remove", "model=more.yaml", cwd=tmp_path)
    original = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
    assert (tmp_path / "more-plain.yaml").read_bytes() == original.read_bytes()


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_the_diff_is_coloured_on_a_terminal_alone(no_colour, coloured, tmp_path):
    screen, terminal = pty.openpty()
    command = [ELA_YOLO, "insert", "model=yolov8n.yaml", "after=20", "dry_run=True"]
    subprocess.run(command, cwd=tmp_path, stdout=terminal, env={**os.environ, "NO_COLOR": no_colour}, check=True)
    os.close(terminal)
    seen = os.read(screen, 10_000).decode()
    os.close(screen)
    row = "+  - [-1, 1, ELA, [{gate: identity}]]"
    assert row in seen
    assert (f"\x1b[32m{row}\x1b[0m" in seen) is coloured


def test_public_names_are_true():
    assert sorted(ela_yolo.__all__) == sorted(ela_yolo._HOME)
    for name in ela_yolo.__all__:
        assert getattr(ela_yolo, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ela_yolo.nothing
