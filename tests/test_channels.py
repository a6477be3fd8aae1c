"""Models of images with one channel, and with more than three: what is drawn and measured of them."""

import cv2
import numpy as np
import pytest
import torch
from conftest import HOME, REPO
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

import ela_yolo
from ela_yolo.data.scenes import render
from ela_yolo.errors import InputError
from ela_yolo.gates.ablation import ablate
from ela_yolo.gates.attention import attention
from ela_yolo.gates.attribution_picture import plot_attention
from ela_yolo.plugin import register

register()
LAYERS = ["3", "6", "9", "12"]
GREY = """
path: {scenes}
train: images/train
val: images/val
channels: 1
names: [ball, cube, leaf, ring, star]
"""


@pytest.fixture(scope="module")
def scenes():
    return render(HOME / "datasets/ela-yolo-scenes")


@pytest.fixture(scope="module")
def grey(scenes, tmp_path_factory):
    """A data set of one channel, and a checkpoint that was trained on it."""
    folder = tmp_path_factory.mktemp("grey")
    data = folder / "grey.yaml"
    data.write_text(GREY.format(scenes=scenes.as_posix()), encoding="utf-8")
    model = YOLO("yolov8n-ela.yaml")
    small = {"fraction": 0.03, "imgsz": 64, "batch": 4, "nbs": 4, "epochs": 1, "workers": 0, "plots": False}
    model.train(data=str(data), project=str(folder), name="run", verbose=False, **small)
    weights = folder / "run/weights/best.pt"
    assert YOLO(weights).model.model[0].conv.weight.shape[1] == 1
    return data, weights


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A checkpoint for images of four channels, and such an image."""
    folder = tmp_path_factory.mktemp("four")
    config = {**yaml_model_load(REPO / "cfg/yolov8-ela.yaml"), "scale": "n"}
    model = DetectionModel(config, ch=4, verbose=False)
    model.args, model.task = {"imgsz": 64, "task": "detect"}, "detect"
    torch.save({"model": model.half(), "train_args": model.args, "epoch": -1}, folder / "four.pt")
    planes = np.random.default_rng(0).integers(0, 255, (4, 48, 64), np.uint8)
    assert cv2.imwritemulti(str(folder / "four.tiff"), list(planes))
    return folder / "four.pt", folder / "four.tiff"


def test_pictures_and_numbers_of_a_grey_model(grey, scenes, tmp_path):
    data, weights = grey
    image = sorted((scenes / "images/val").iterdir())[0]
    (file,) = attention(weights, image, tmp_path / "pictures", imgsz=64)
    assert cv2.imread(str(file)).std() > 10
    report = ablate(weights, data, imgsz=64)
    assert [block.layer for block in report.blocks] == LAYERS


def test_more_channels_are_drawn_and_others_are_refused_in_one_line(four, scenes, tmp_path):
    weights, image = four
    (file,) = attention(weights, image, tmp_path / "pictures", imgsz=64)
    assert cv2.imread(str(file)).std() > 10
    photograph = sorted((scenes / "images/val").iterdir())[0]
    message = r"four\.pt takes images with 4 channels, but Ultralytics reads these with 3; use images with 4 channels$"
    with pytest.raises(InputError, match=message):
        attention(weights, photograph, tmp_path / "others", imgsz=64)
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize("shape", [(30, 50), (30, 50, 1), (30, 50, 2), (30, 50, 3), (30, 50, 4)])
def test_images_of_any_channels_are_drawn(shape):
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    figure, panels = plot_attention(image, [])
    figure.canvas.draw()
    shown = panels[0].images[0].get_array()
    assert shown.shape == (384, 640, 3) and shown.std() > 10


def test_a_grey_checkpoint_keeps_its_channel_when_ela_goes_and_comes(grey, tmp_path):
    ela_yolo.remove(grey[1], save=tmp_path / "plain.pt")
    ela_yolo.insert(tmp_path / "plain.pt", save=tmp_path / "again.pt")
    for name in ("plain.pt", "again.pt"):
        model = YOLO(tmp_path / name).model
        assert model.yaml["channels"] == 1 and model.model[0].conv.weight.shape[1] == 1
