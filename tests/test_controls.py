"""The controls that a comparison makes: what they are made of, what they keep, and real runs with them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FEW, python
from helpers import narrow
from ultralytics import YOLO
from ultralytics.utils import ROOT

import ela_yolo
from ela_yolo.channel_scale import ChannelScale
from ela_yolo.cli.main import main
from ela_yolo.ela import ELA
from ela_yolo.errors import InputError
from ela_yolo.study.compare import compare
from ela_yolo.study.controls import find_controls

YAML_OF_V8 = ROOT / "cfg/models/v8/yolov8.yaml"
KEYS: dict[str, Any] = {"epochs": 1, "fraction": 0.05, "imgsz": 64, "batch": 8, "workers": 0}


def controls_of(kinds, *models, **train):
    named = {Path(model).stem: str(model) for model in models}
    return find_controls(kinds, named, {name: YOLO(model) for name, model in named.items()}, train)


def make(control, folder):
    made = control.make(folder)
    assert Path(made).stem == control.name
    return YOLO(made).model


def saved(file, model="yolov8n.yaml"):
    YOLO(model).save(file)
    return file


def layers(model, kind):
    return {number: layer for number, layer in enumerate(model.model) if isinstance(layer, kind)}


@pytest.fixture(scope="module")
def with_ela(tmp_path_factory):
    """A checkpoint with ELA, whose gates learn at 30 times the rate."""
    folder = tmp_path_factory.mktemp("with-ela")
    ela_yolo.insert(saved(folder / "plain.pt"), save=folder / "best.pt", lr_mult=30)
    return folder / "best.pt"


def test_scale_of_a_yaml(tmp_path):
    """Of the first model that has ELA, at its own scale and with the rates of its own rows."""
    ela_yolo.insert("yolov8n.yaml", save=tmp_path / "yolov8s-mine.yaml", gate="residual", lr_mult=30)
    text = (tmp_path / "yolov8s-mine.yaml").read_text(encoding="utf-8")
    text = text.replace("[{gate: residual, lr_mult: 30}]", "[S]", 1)
    (tmp_path / "yolov8s-mine.yaml").write_text(text, encoding="utf-8")
    (control,) = controls_of(["scale"], "yolov8n.yaml", tmp_path / "yolov8s-mine.yaml", "yolov8n-ela.yaml")
    assert (control.name, control.source) == ("yolov8s-mine-channelscale", tmp_path / "yolov8s-mine.yaml")
    assert not [*tmp_path.glob("models*")]
    made, model = make(control, tmp_path / "models"), YOLO(tmp_path / "yolov8s-mine.yaml").model
    blocks, places = layers(made, ChannelScale), layers(model, ELA)
    assert blocks.keys() == places.keys() and not layers(made, ELA)
    assert [block.lr_mult for block in blocks.values()] == [1, 30, 30, 30]
    assert [len(block.bias) for block in blocks.values()] == [64, 128, 256, 512]
    assert [layer.f for layer in made.model] == [layer.f for layer in model.model] and made.save == model.save
    others = {key: value.shape for key, value in model.state_dict().items() if int(key.split(".")[1]) not in places}
    assert {
        key: value.shape for key, value in made.state_dict().items() if ".bias" not in key or key in others
    } == others


def test_scale_of_a_checkpoint(with_ela, tmp_path):
    """It keeps every other weight, and detects what the model detects while its gates let all through."""
    (control,) = controls_of(["scale"], "yolov8n.yaml", with_ela)
    assert control.name == "best-channelscale"
    made, model = make(control, tmp_path).float().eval(), YOLO(with_ela).model.float().eval()
    places = layers(model, ELA)
    assert {number: block.lr_mult for number, block in layers(made, ChannelScale).items()} == dict.fromkeys(places, 30)
    kept, before = made.state_dict(), model.state_dict()
    others = {key for key in before if int(key.split(".")[1]) not in places}
    assert len(others) == 355 and all(torch.equal(kept[key], before[key]) for key in others)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(made(image)[0], model(image)[0])


def test_a_control_has_the_same_bytes_whenever_it_is_made(with_ela, tmp_path):
    code = f"""
from pathlib import Path
from ultralytics import YOLO
from ultralytics.utils import ROOT
from ela_yolo.study.controls import find_controls
for model in ("yolov8n-ela.yaml", {str(with_ela)!r}):
    for control in find_controls(["scale"], {{"x": model}}, {{"x": YOLO(model)}}, {{}}):
        control.make(Path("FOLDER"))
"""
    for seed in ("1", "2"):
        python(code.replace("FOLDER", seed), cwd=tmp_path, env={"PYTHONHASHSEED": seed})
    for file in ("x-channelscale.yaml", "x-channelscale.pt"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


@pytest.mark.parametrize(
    ("baseline", "name", "as_large_as"),
    [
        ("yolov8n.yaml", "yolov8s", "yolov8s.yaml"),
        ("yolo11s.yaml", "yolo11m", "yolo11m.yaml"),
        ("yolov8n-ela.yaml", "yolov8s-ela", "yolov8s-ela.yaml"),
    ],
)
def test_next_of_a_yaml(baseline, name, as_large_as, tmp_path):
    (control,) = controls_of(["next"], baseline, "yolov8l.yaml")
    made = make(control, tmp_path / "models")
    assert control.name == name and control.source.is_file()
    expected = YOLO(as_large_as).model
    assert {key: value.shape for key, value in made.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }


def test_next_of_a_yaml_of_the_users_own(tmp_path):
    """It is the user's, not the one of Ultralytics; a scale that it leaves out is passed over."""
    text = YAML_OF_V8.read_text(encoding="utf-8")
    (tmp_path / "my-yolov8n.yaml").write_text(re.sub(r"(?m)^  s: .*\n", "", text) + "# mine\n", encoding="utf-8")
    (control,) = controls_of(["next"], tmp_path / "my-yolov8n.yaml")
    made = make(control, tmp_path / "models")
    assert control.name == "my-yolov8m" and made.yaml["scale"] == "m"
    assert (tmp_path / "models/my-yolov8m.yaml").read_bytes() == (tmp_path / "my-yolov8n.yaml").read_bytes()


def test_next_of_a_checkpoint_is_that_of_ultralytics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    saved("weights/yolov8n.pt")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing can be downloaded
    needed = re.escape(
        f"controls=next needs {Path('weights/yolov8s.pt')}, which is not here and could not be downloaded"
    )
    with pytest.raises(InputError, match=f"^{needed}; put it there, or leave next out$"):
        controls_of(["next"], "weights/yolov8n.pt")
    saved("weights/yolov8s.pt", "yolov8s.yaml")
    (control,) = controls_of(["next"], "weights/yolov8n.pt")
    assert (control.name, control.source) == ("yolov8s", Path("weights/yolov8s.pt"))
    assert control.make(tmp_path / "models") == str(Path("weights/yolov8s.pt")) and not (tmp_path / "models").exists()
    other = YOLO("yolov8s.yaml")
    other.model.names = {0: "cat"}
    other.save("weights/yolov8s.pt")
    with pytest.raises(
        InputError, match=r"yolov8n\.pt and .*yolov8s\.pt were trained on other classes; leave next out"
    ):
        controls_of(["next"], "weights/yolov8n.pt")


@pytest.mark.parametrize(
    ("controls", "models", "message"),
    [
        (["scales"], ["yolov8n.yaml"], r"controls=scales is not known, did you mean 'scale'\?"),
        (["scale", "none"], ["yolov8n-ela.yaml"], "controls=none is not known; there are scale, next"),
        (["scale"], ["yolov8n.yaml", "yolov8s.yaml"], "no model has ELA; name one that has, such as yolov8n-ela.yaml"),
        (["next"], ["yolov8n.yaml", "yolov8s.yaml"], "controls=next and yolov8s.yaml would both be called yolov8s; le"),
        (["next"], ["yolov8x.yaml"], "controls=next: yolov8x.yaml has no scale above x; leave next out, or name the"),
        (["next"], ["yolov8.yaml"], "controls=next: yolov8.yaml does not tell its scale by its name as yolov8n does"),
        (["next"], ["best.pt"], "controls=next: .*best.pt does not tell its scale"),
        (["next"], ["yolov8n-mine.pt"], "yolov8n-mine.pt is no checkpoint of Ultralytics, so none of the next scale"),
    ],
)
def test_controls_that_there_are_not(controls, models, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in models:
        if model.endswith(".pt"):
            saved(model)
    with pytest.raises(InputError, match=message) as raised:
        controls_of(controls, *models)
    assert "\n" not in str(raised.value)


def test_a_larger_model_without_the_weights_that_the_others_have_is_refused():
    with pytest.raises(InputError, match=r"controls=next: pretrained=yolov8n\.pt fits one scale, so the larger model"):
        controls_of(["next"], "yolov8n.yaml", pretrained="yolov8n.pt")
    assert controls_of(["next"], "yolov8n.yaml", pretrained=True)


def test_the_command_line_refuses_a_control(tmp_path, monkeypatch, capsys):
    """Before it makes a folder."""
    monkeypatch.chdir(tmp_path)
    line = "compare models=yolov8n.yaml,yolov8n-ela.yaml data=scenes.yaml seeds=0 controls=scale,nxt"
    assert main(line.split()) == 1
    assert capsys.readouterr().err == "ela-yolo: controls=nxt is not known, did you mean 'next'?\n"
    assert not os.listdir(tmp_path)


def test_a_comparison_with_controls_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("yolov8n.yaml").write_text(narrow(YAML_OF_V8.read_text(encoding="utf-8"), 0.125), encoding="utf-8")
    ela_yolo.insert("yolov8n.yaml", save="yolov8n-mine.yaml", lr_mult=30)
    models = ["yolov8n.yaml", "yolov8n-mine.yaml"]
    call: dict[str, Any] = {"data": str(FEW), "seeds": [0], **KEYS}
    result = compare(models, controls=["scale"], **call)
    names = ["yolov8n", "yolov8n-mine", "yolov8n-mine-channelscale"]
    assert [size.model for size in result.sizes] == names == [run.model for run in result.runs]
    assert [difference.model for difference in result.differences] == names[1:]
    _, ela, scale = (run.map50_95 for run in result.runs)
    assert result.attention.model == "yolov8n-mine" and result.attention.values == (ela - scale,)
    assert "- To the same without attention, yolov8n-mine: nothing can be said with 1 seed;" in str(result)
    log = (tmp_path / "compare/runs/yolov8n-mine-channelscale-0/log.txt").read_text(encoding="utf-8")
    assert log.count("ela_yolo.channel_scale.ChannelScale") == 4
    files = [tmp_path / "compare/models/yolov8n-mine-channelscale.yaml", tmp_path / "compare/settings.json"]
    before = [file.read_bytes() for file in files]
    assert json.loads(before[1])["models"].keys() == set(names)

    capsys.readouterr()
    assert compare(models, controls=["scale"], **call).runs == result.runs
    assert "3 of 3 runs are finished" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before
    assert compare(models, **call).attention is None
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    with open("yolov8n-mine.yaml", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match="holds runs of another yolov8n-mine; rename the file"):
        compare(models, controls=["scale"], **call)
    assert [file.read_bytes() for file in files] == before
