"""Checkpoints of a changed Ultralytics with an ELA class of its own: named by every command, and converted."""

import re
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cv2
import pytest
import torch
from conftest import BIN, forked
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ASSETS

import ela_yolo
from ela_yolo import ELA, CheckpointError, InsertionError, WeightTransfer
from ela_yolo.cli.main import main
from ela_yolo.host.foreign_classes import check_classes

SPPF = 9  # of yolov8n; what follows it has 256 channels


class Block(nn.Module):
    """What the public copies have in common; their classes differ in names and numbers."""

    names = ("conv", "gn")
    form = staticmethod(lambda x, gates: x * gates)

    def __init__(self, kernel=7, groups=256, num_groups=16, **conv):
        super().__init__()
        self.pad = kernel // 2
        setattr(self, self.names[0], nn.Conv1d(256, 256, kernel, padding=self.pad, groups=groups, bias=False, **conv))
        setattr(self, self.names[1], nn.GroupNorm(num_groups, 256))
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        conv, gn = (getattr(self, name) for name in self.names)
        gate_h, gate_w = (self.sigmoid(gn(conv(x.mean(axis)))) for axis in (3, 2))
        return self.form(x, gate_h.unsqueeze(3) * gate_w.unsqueeze(2))


class Residual(Block):
    names = ("con1", "GN")
    form = staticmethod(lambda x, gates: x * gates + x)


class InSequence(Block):
    def __init__(self, **conv):
        super().__init__()
        del self.conv, self.gn, self.sigmoid
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1x1 = nn.Sequential(nn.Conv1d(256, 256, 7, padding=3, **conv), nn.GroupNorm(16, 256), nn.Sigmoid())

    def forward(self, x):
        gate_h = self.conv1x1(self.pool_h(x)[..., 0]).unsqueeze(3)
        return x * gate_h * self.conv1x1(self.pool_w(x)[:, :, 0]).unsqueeze(2)


@contextmanager
def defined(place, name, kind):
    """Have a class in a module that may be missing, as in a changed Ultralytics, for a while."""
    made = [".".join(place.split(".")[: n + 1]) for n in range(place.count(".") + 1)]
    made = [module for module in made if module not in sys.modules]
    sys.modules.update({module: ModuleType(module) for module in made})
    former = getattr(sys.modules[place], name, None)
    kind.__module__, kind.__qualname__, kind.__name__ = place, name, name
    setattr(sys.modules[place], name, kind)
    try:
        yield
    finally:
        delattr(sys.modules[place], name)
        if former is not None:
            setattr(sys.modules[place], name, former)
        for module in made:
            del sys.modules[module]


def outputs(model):
    """What a model gives of Ultralytics' own photographs."""
    found = []
    for photo in sorted(ASSETS.glob("*.jpg")):
        pixels = LetterBox((320, 320))(image=cv2.imread(str(photo)))
        with torch.no_grad():
            found.append(model.float().eval()(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)[0])
    assert not torch.equal(found[0], found[1])
    return found


def write_fork(plain, file, place, name, make, layer=None, **more):
    """Write what that Ultralytics would after a training: a layer of its class, and its row in the YAML."""
    kind = type(name, (make[0],), {})
    ela_yolo.insert(plain, after=SPPF, save=file, exist_ok=True)
    with defined(place, name, kind):
        checkpoint = torch.load(file, weights_only=False)
        model, former = checkpoint["model"], checkpoint["model"].model[SPPF + 1]
        torch.manual_seed(0)
        block = kind(**make[1])
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
        block = layer(block) if layer else block
        block.i, block.f, block.type, block.np = former.i, former.f, f"{place}.{name}", 0
        model.model[SPPF + 1] = block
        model.yaml["backbone"][SPPF + 1] = [-1, more.pop("repeats", 1), name, [256]]
        torch.save({**checkpoint, **more, "model": model.half()}, file)
        return outputs(model)


PLACES = [  # where public copies have the class, what it is called, what it is, and our row
    ("ultralytics.nn.modules.conv", "ELA", (Block, {}), []),
    ("ultralytics.nn.tasks", "ELA", (Block, {"kernel": 5, "num_groups": 32}), ["T"]),
    ("ultralytics.nn.modules.ELA", "EfficientLocalizationAttention", (Block, {"groups": 32}), ["L"]),
    ("ultralytics.nn.Addmodules.ELA", "ELA_Block", (Block, {"kernel": 3}), [{"kernel_size": 3}]),
    ("ultralytics.nn.extra_modules.attention", "ELA", (InSequence, {"groups": 256, "bias": False}), []),
    ("models.attention", "LocalAttention", (Block, {"num_groups": 32}), [{"num_groups": 32}]),
    ("__main__", "ELA", (Residual, {"groups": 8, "kernel": 5}), [{"kernel_size": 5, "groups": 8, "gate": "residual"}]),
    ("ultralytics.nn.modules.block", "ELA", (Residual, {"groups": 32}), ["L", "residual"]),
]


@pytest.mark.parametrize("place", PLACES, ids=[".".join(place[:2]) for place in PLACES])
def test_the_blocks_become_ela_with_their_weights_and_outputs(place, plain, tmp_path):
    module, name, make, row = place
    expected = write_fork(plain, tmp_path / "fork.pt", module, name, make)
    gate = "residual" if make[0] is Residual else None
    result = ela_yolo.insert(tmp_path / "fork.pt", gate=gate, save=tmp_path / "ours.pt")
    assert result.transfer == WeightTransfer(355, 355, kept_blocks=(10,))
    assert (result.rows, result.layer_map) == ((10,), {layer: layer for layer in range(24)})
    assert f"{module}.{name} became ELA in place (layer 10; ELA-" in result.notes[0]
    assert "its own code is not in the file and was not run" in result.notes[1]
    ours: Any = YOLO(tmp_path / "ours.pt").model
    assert type(ours.model[10]) is ELA and ours.yaml["backbone"][10] == [-1, 1, "ELA", row]
    for theirs, our in zip(expected, outputs(ours), strict=True):
        torch.testing.assert_close(our, theirs, rtol=1e-4, atol=1e-2)
    # Retraining builds the model anew from the YAML that the checkpoint holds.
    report = type(ours)(ours.yaml, verbose=False).load(ours, verbose=False)
    assert (report.kept, report.kept_blocks) == (355, (10,))


def test_the_form_that_the_weights_do_not_tell_changes_the_outputs(plain, tmp_path):
    expected = write_fork(plain, tmp_path / "fork.pt", "ultralytics.nn.modules.conv", "ELA", (Residual, {}))
    paper = ela_yolo.insert(tmp_path / "fork.pt", save=tmp_path / "paper.pt")
    assert "if it adds the map, x + x * ..., take gate=residual" in paper.notes[1]
    assert (outputs(YOLO(tmp_path / "paper.pt").model)[0] - expected[0]).abs().max() > 1


def test_repeated_blocks_and_the_metrics_of_the_training(plain, tmp_path):
    def twice(block):
        torch.manual_seed(1)
        other = type(block)()
        return nn.Sequential(block, other)

    place = ("ultralytics.nn.modules.conv", "ELA", (Block, {}))
    metrics = {"metrics/mAP50-95(B)": 0.4567, "fitness": 0.4}
    expected = write_fork(plain, tmp_path / "fork.pt", *place, twice, repeats=6, train_metrics=metrics)
    result = ela_yolo.insert(tmp_path / "fork.pt", save=tmp_path / "ours.pt")
    assert "measure what the old one did, 0.457 mAP50-95 in its training" in result.notes[2]
    ours = YOLO(tmp_path / "ours.pt").model
    assert [type(block) for block in ours.model[10]] == [ELA, ELA]
    torch.testing.assert_close(outputs(ours), expected, rtol=1e-4, atol=1e-2)
    write_fork(plain, tmp_path / "fork.pt", *place, twice, repeats=1)
    with pytest.raises(CheckpointError, match="layer 10 holds 2 blocks, and its row builds 1"):
        ela_yolo.insert(tmp_path / "fork.pt")


class WithReLU(Block):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()


class TwoConvolutions(Block):
    def __init__(self):
        super().__init__()
        self.conv_w = nn.Conv1d(256, 256, 7, padding=3, groups=256, bias=False)


class WithScale(Block):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class OtherEps(Block):
    def __init__(self):
        super().__init__()
        self.gn.eps = 1e-3


def within(block):
    layer = nn.ModuleList([block])
    layer.forward = block.forward
    return layer


REFUSED = [  # what the blocks are, and what the one line says
    (InSequence, {}, "layer 10 ELA has a Conv1d with a bias, which ELA's has not"),
    (WithReLU, {}, "layer 10 ELA holds a ReLU"),
    (TwoConvolutions, {}, "layer 10 ELA holds 2 Conv1d and 1 GroupNorm, where ELA has one of each"),
    (WithScale, {}, "layer 10 ELA has weights outside of its Conv1d and GroupNorm"),
    (OtherEps, {}, "layer 10 ELA has a GroupNorm without weights, or with an eps other than 1e-05"),
    (Block, {"padding_mode": "reflect"}, "layer 10 ELA pads its Conv1d by reflect"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED)
def test_other_layouts_are_refused_in_one_line(kind, settings, message, plain, tmp_path):
    file = tmp_path / "fork.pt"
    write_fork(plain, file, "ultralytics.nn.modules.conv", "ELA", (kind, settings))
    for call in (ela_yolo.insert, ela_yolo.remove, ela_yolo.layer_map, check_classes):
        with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
            call(file)
        assert "\n" not in str(caught.value) and "use it where that Ultralytics is installed" in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_block_that_is_no_row_of_its_own_is_refused(plain, tmp_path):
    file = tmp_path / "fork.pt"
    write_fork(plain, file, "ultralytics.nn.modules.conv", "ELA", (Block, {}), within)
    with pytest.raises(CheckpointError, match="ELA is a part of layer 10 ModuleList"):
        ela_yolo.insert(file)
    write_fork(plain, file, "ultralytics.nn.modules.block", "C2f_ELA", (TwoConvolutions, {}))
    with pytest.raises(CheckpointError, match="layer 10 C2f_ELA holds 2 Conv1d"):
        ela_yolo.insert(file)


def test_another_class_that_is_missing_too_is_named(plain, tmp_path):
    file = tmp_path / "fork.pt"
    other = type("DySample", (nn.Module,), {})
    with defined("ultralytics.nn.extra_modules", "DySample", other):
        write_fork(plain, file, "ultralytics.nn.modules.conv", "ELA", (Block, {}), loss=other())
    with pytest.raises(CheckpointError, match=r"ultralytics\.nn\.extra_modules\.DySample is missing too"):
        ela_yolo.insert(file)


def test_a_missing_class_that_is_no_ela_is_left_to_ultralytics(plain, tmp_path):
    file = tmp_path / "fork.pt"
    write_fork(plain, file, "ultralytics.nn.modules.conv", "Shuffle", (WithReLU, {}))
    check_classes(file)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: Can't get attribute 'Shuffle'"):
        ela_yolo.insert(file)


@pytest.fixture(scope="module")
def fork(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fork")
    write_fork(plain, folder / "fork.pt", "ultralytics.nn.modules.conv", "ELA", (Block, {}))
    return folder


COMMANDS = (
    *("doctor model=", "remove model=", "export format=onnx model=", "val data=coco8.yaml model=", "predict model="),
    *("train data=coco8.yaml model=", "train data=coco8.yaml model=yolov8n.yaml pretrained=", "tune model="),
    *(
        "verify against=x.onnx model=",
        "profile model=",
        "attention source=x.jpg model=",
        "doctor model=yolov8n.pt weights=",
    ),
    "compare data=coco8.yaml seeds=0 models=yolov8n.yaml,",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_way_out(command, fork, capsys, monkeypatch):
    monkeypatch.chdir(fork)
    assert main(f"{command}fork.pt".split()) == 1
    said = "".join(capsys.readouterr())
    assert "an ELA class of its own (ultralytics.nn.modules.conv.ELA), which is not here; `ela-yolo insert " in said
    assert [file.name for file in fork.iterdir()] == ["fork.pt"]


def test_python_calls_name_it_too(fork):
    for call in (ela_yolo.remove, ela_yolo.layer_map):
        with pytest.raises(CheckpointError, match=r"an ELA class of its own .* writes a copy"):
            call(fork / "fork.pt")
    with pytest.raises(CheckpointError, match=r"an ELA class of its own .* writes a copy"):
        ela_yolo.verify_export(fork / "fork.pt", "x.onnx")
    with pytest.raises(CheckpointError, match=r"an ELA class of its own .* writes a copy"):
        ela_yolo.ablate(fork / "fork.pt", "coco8.yaml")


def test_keys_of_an_insertion_have_no_meaning_there(fork):
    for keys in ({"after": 4}, {"where": "all"}, {"variant": "B"}, {"rewire": "next"}):
        with pytest.raises(InsertionError, match="whose blocks become ELA in place, so only gate= and save="):
            ela_yolo.insert(fork / "fork.pt", **keys)
    with pytest.raises(InsertionError, match="becomes gate=paper or gate=residual, not gate=identity"):
        ela_yolo.insert(fork / "fork.pt", gate="identity")
    with pytest.raises(InsertionError, match="exists; name another file with save="):
        ela_yolo.insert(fork / "fork.pt", save=fork / "fork.pt")


def test_nothing_that_a_file_names_is_imported_where_ultralytics_loads_safely(fork, monkeypatch):
    monkeypatch.setattr("ultralytics.utils.SAFE_LOAD", True)
    monkeypatch.setattr("ultralytics.nn.tasks.SAFE_LOAD", True)
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: .*references types outside"):
        ela_yolo.insert(fork / "fork.pt")


def test_what_was_converted_is_validated_trained_on_and_exported(fork, tmp_path):
    (tmp_path / "fork.pt").write_bytes((fork / "fork.pt").read_bytes())
    said = forked(BIN / "ela-yolo", "insert", "model=fork.pt", cwd=tmp_path).stdout
    assert "355/355 pretrained tensors kept; 1 ELA kept (10)" in said and "written to fork-ela.pt" in said
    assert re.search(r"^-  - \[-1, 1, ELA, \[256\]\]\n\+  - \[-1, 1, ELA, \[\]\]$", said, re.MULTILINE)
    keys = ["data=scenes.yaml", "imgsz=96", "workers=0", "plots=False", f"project={tmp_path}"]
    val = forked(BIN / "yolo", "val", "model=fork-ela.pt", *keys, cwd=tmp_path)
    assert re.search(r"^ +all +\d+ +\d+", val.stdout, re.MULTILINE)
    train = forked(
        BIN / "yolo", "train", "model=fork-ela.pt", "epochs=1", "fraction=0.1", "val=False", *keys, cwd=tmp_path
    )
    assert "ELA: 355/355 pretrained tensors kept; 1 ELA kept (10)" in train.stdout
    export = forked(BIN / "ela-yolo", "export", "model=fork-ela.pt", "format=onnx", "imgsz=96", cwd=tmp_path)
    assert "matches within the float32 tolerance" in export.stdout
