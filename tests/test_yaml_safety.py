"""A model YAML from elsewhere runs no code: not when it is looked at, and not by any command."""

import json
import sys

import pytest
import yaml
from conftest import forked, forked_python

from ela_yolo import InputError, ModelYamlError, RowError
from ela_yolo.host.lookup import check_inputs, check_model, check_rows, open_model
from ela_yolo.host.rows import read_block_row

PLAIN = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}


def write(folder, row=None, **keys):
    """A small model, with a row in place of its second or with other keys."""
    config = {**PLAIN, **keys}
    if row is not None:
        config["backbone"] = [PLAIN["backbone"][0], row]
    file = folder / "yolov8n-small.yaml"
    rows = {part: "".join(f"  - {json.dumps(row)}\n" for row in config.pop(part)) for part in ("backbone", "head")}
    file.write_text(yaml.safe_dump(config) + "".join(f"{part}:\n{lines}" for part, lines in rows.items()))
    return file


@pytest.mark.parametrize(
    "activation",
    ["nn.SiLU()", "torch.nn.ReLU()", " nn.LeakyReLU(0.1)", "torch.nn.Hardtanh(min_val=-1.0, max_val=2)", None, ""],
)
def test_an_activation_of_torch_passes(activation, tmp_path):
    file = write(tmp_path, activation=activation)
    check_rows(file)
    open_model(file)


@pytest.mark.parametrize(
    "activation",
    [
        "open('ran', 'w')",
        "__import__('os').system('touch ran')",
        "nn.SiLU(open('ran', 'w'))",
        "nn.SiLU(inplace=open('ran', 'w'))",
        "nn.SiLU(*[open('ran', 'w')])",
        "nn.SiLU(**dict(inplace=open('ran', 'w')))",
        "nn.SiLU(**{'inplace': True})",
        "nn.SiLU(f'{open(chr(114), chr(119))}')",
        "nn.modules.module.torch.hub.load('x', 'y')",
        "nn.init.xavier_normal_(1)",
        "nn.Parameter()",
        "torch.load('evil.pt')",
        "torch.nn.modules.SiLU()",
        "(lambda: open('ran', 'w'))()",
        "[nn.SiLU() for _ in [open('ran', 'w')]][0]",
        "nn.SiLU() if open('ran', 'w') else 0",
        "nn.SiLU",
        "SiLU()",
        "nn.SiLU(",
        "nn.SiLU()\0",
        "(" * 5000,
        ["nn.SiLU()"],
        5,
        True,
    ],
    ids=lambda written: str(written)[:40],
)
def test_an_activation_that_is_code_is_refused(activation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, activation=activation)
    for look in (check_rows, open_model):
        with pytest.raises(ModelYamlError, match="is not a module of torch") as caught:
            look(file)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("torch_safe_load", "torch_safe_load is no layer"),
        ("yaml_model_load", "yaml_model_load is no layer"),
        ("load_checkpoint", "load_checkpoint is no layer"),
        ("check_requirements", "check_requirements is no layer"),
        ("parse_model", "parse_model is no layer"),
        ("Path", "Path is no layer"),
        ("DetectionModel", "DetectionModel is no layer"),  # which would be built from another YAML
        ("YOLOEModel", "YOLOEModel is no layer"),
        ("nn.Parameter", "nn.Parameter is no layer"),
        ("nn.init", "nn.init is no layer"),
        ("nn.modules.SiLU", "there is no module nn.modules.SiLU"),
        ("nn.__builtins__", "nn.__builtins__ is no layer"),
        ("torchvision.ops.nms", "torchvision.ops.nms is no layer"),
        ("torchvision.io.read_file", "there is no module torchvision.io.read_file"),
        ("__builtins__", "__builtins__ is no layer"),
        ("__import__", "there is no module __import__"),
        ("eval", "there is no module eval"),
    ],
)
def test_a_row_that_names_no_layer_is_refused(module, said, tmp_path):
    with pytest.raises(ModelYamlError) as caught:
        check_rows(write(tmp_path, [-1, 1, module, []]))
    assert f"layer 1: {said}" in str(caught.value) and "\n" not in str(caught.value)


def test_layers_of_torch_and_torchvision_pass(tmp_path):
    for module in ("nn.Identity", "torchvision.ops.SqueezeExcitation", "TorchVision", "ELA", "SE"):
        check_rows(write(tmp_path, [-1, 1, module, []]))


@pytest.mark.parametrize("written", ["clip:evil.pt", "mobileclip:/tmp/x", "clip:ViT-B/32.pt", 5, ["clip:RN50"]])
def test_a_text_model_that_may_be_a_file_is_refused(written, tmp_path):
    for known in ("mobileclip:blt", "mobileclip2:b", "clip:ViT-B/32", "clip:ViT-L/14@336px", "clip:RN50x16"):
        check_rows(write(tmp_path, text_model=known))
    with pytest.raises(ModelYamlError, match="may be a file"):
        check_rows(write(tmp_path, text_model=written))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("small.YAML", "rename it to end in .yaml"),
        (".yaml", "rename it to end in .yaml"),
        ("https://example.org/yolov8n.yaml", "fetch it first and name the file"),
        ("ul://somebody/project/yolov8n.yml", "fetch it first and name the file"),
    ],
)
def test_what_ultralytics_would_build_unseen_is_refused(name, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "://" not in name:
        write(tmp_path, activation="open('ran', 'w')").rename(tmp_path / name)
    with pytest.raises(InputError, match=remedy):
        check_model(name)
    with pytest.raises(InputError):
        open_model(name)
    assert not (tmp_path / "ran").exists()


def test_the_model_that_a_file_of_settings_names_is_looked_at(tmp_path):
    evil = write(tmp_path, activation="open('ran', 'w')")
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"model: {evil}\nimgsz: 64\n")
    with pytest.raises(ModelYamlError, match="activation"):
        check_inputs("train", {"cfg": str(settings)})
    with pytest.raises(ModelYamlError, match="activation"):  # releases differ in which of the two goes first
        check_inputs("train", {"cfg": str(settings), "model": "yolov8n.yaml"})
    with pytest.raises(InputError, match=r"cfg=none\.yaml is no file of settings"):
        check_inputs("train", {"cfg": "none.yaml"})


COMMANDS = [
    *("train", "val", "predict", "track", "benchmark", "tune", "export format=onnx"),
    *("insert after=P3", "profile", "attention source=none.jpg", "ablate data=scenes.yaml", "verify against=none.onnx"),
    *("compare data=none.yaml seeds=0", "doctor"),
]
EVERY_COMMAND = """
import contextlib, io, os, sys
from ela_yolo.cli.main import main
for command in sys.argv[1:]:
    name, *rest = command.split()
    models = "models=yolov8n-small.yaml,yolov8n.yaml" if name == "compare" else "model=yolov8n-small.yaml"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([name, models, *rest])
    said = [line for line in (out if name == "doctor" else err).getvalue().splitlines() if "yolov8n-small.yaml" in line]
    print(name, status, len(said) - (name == "doctor"), "SAID" in said[-1] if said else "", os.path.exists("ran"))
"""


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"activation": "open('ran', 'w') and torch.nn.SiLU()"}, "activation: "),
        ({"row": [-1, 1, "torch_safe_load", ["evil.pt"]]}, "torch_safe_load is no layer"),
        ({"row": [-1, 1, "DetectionModel", ["other.yaml"]]}, "DetectionModel is no layer"),
    ],
)
def test_no_command_runs_what_a_model_yaml_says(keys, said, tmp_path):
    write(tmp_path, activation="open('ran', 'w')").rename(tmp_path / "other.yaml")
    write(tmp_path, **keys)
    (tmp_path / "make.py").write_text(
        "import torch\n"
        "class Evil:\n"
        "    def __reduce__(self): return open, ('ran', 'w')\n"
        "torch.save({'model': Evil()}, 'evil.pt')\n"
    )
    forked_python("exec(open('make.py').read())", cwd=tmp_path)
    stock = "from ultralytics import YOLO; YOLO('yolov8n-small.yaml')"
    forked_python(stock, cwd=tmp_path, ok=False)
    assert (tmp_path / "ran").exists()  # so it is code
    (tmp_path / "ran").unlink()
    done = forked(sys.executable, "-c", EVERY_COMMAND.replace("SAID", said), *COMMANDS, cwd=tmp_path)
    names = [command.split()[0] for command in COMMANDS]
    assert done.stdout.splitlines() == [f"{name} 1 1 True False" for name in names]
    assert not (tmp_path / "ran").exists()


def test_a_yaml_that_nests_its_aliases_is_refused_at_once(tmp_path):
    """Nine lists of nine lists of ...: a kilobyte that would be gigabytes as text."""
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    for row in ("*a11", "[-1, 1, ELA, *a11]", "[-1, 1, Conv, *a11]"):
        rows = f"backbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - {row}\nhead:\n  - [[-1], 1, Detect, [nc]]\n"
        (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "nc: 2", rows]), encoding="utf-8")
        with pytest.raises(ModelYamlError, match="layer 1"):
            check_rows(tmp_path / "bomb.yaml")
    nested = yaml.safe_load((tmp_path / "bomb.yaml").read_text(encoding="utf-8"))["a11"]
    with pytest.raises(RowError, match=r"ELA row 1") as caught:
        read_block_row(1, [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "ELA", nested]])
    assert len(str(caught.value)) < 10_000
