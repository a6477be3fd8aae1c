"""Whether gates favour objects: the measure, its control, and the labels it is taken from."""

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import HOME
from torch import nn
from ultralytics import YOLO

from ela_yolo import ELA
from ela_yolo.data.scenes import render
from ela_yolo.gates.attention import gate_health
from ela_yolo.gates.focus import Focus, FocusMeter, Objects, _drawn
from ela_yolo.gates.health import GateHealth, GateReport
from ela_yolo.gates.placement import WHOLE, covered
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.host.objects import labelled_objects
from ela_yolo.plugin import register

register()
SIDE = 128  # px of the network's input
CELLS = 32  # of the map


def box(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def gated(favours):
    """A block whose gate along the width rises with what is in the map, or falls, or is constant."""
    block = ELA(16, gate="identity")
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[:, :, 3] = 1  # the strip itself
        block.gn.weight.fill_(favours)
        block.gn.bias.fill_(0.2)
    return block


def measured(block, outlines, images=8, shift=0.0):
    """The focus over maps that are large where the objects are."""
    generator = torch.Generator().manual_seed(0)
    objects = Objects(outlines, (SIDE, SIDE))
    inside = torch.from_numpy(_drawn(outlines, WHOLE, (CELLS, CELLS)))
    with FocusMeter(block) as meter:
        for _ in range(images):
            x = torch.rand(1, 16, CELLS, CELLS, generator=generator) + inside - shift
            block(x)
            meter.update([objects], [WHOLE], (SIDE, SIDE))
    return meter.result()[""]


@pytest.mark.parametrize(
    ("favours", "verdict"), [(1.5, "favours objects"), (-1.5, "avoids objects"), (0, "no different from random gates")]
)
def test_a_gate_that_favours_boxes_one_that_avoids_them_and_a_constant_one(favours, verdict):
    focus = measured(gated(favours), [box(0.25, 0.25, 0.5, 0.5), box(0.6, 0.1, 0.9, 0.6)])
    assert focus.verdict.startswith(f"{verdict} ({focus.value:.2f}, random gates ")
    assert focus.images == 8 and focus.low <= focus.value <= focus.high
    assert focus.control_low <= focus.control <= focus.control_high
    if favours == 0:
        assert focus.value == pytest.approx(1, abs=1e-5)
    else:
        assert (focus.value > 1.3) == (favours > 0) and abs(math.log(focus.value)) > 0.25


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (1.20, 1.15, 1.25, "favours objects (1.20, random gates 1.05)"),
        (1.11, 1.08, 1.15, "no different from random gates (1.11, random gates 1.05)"),  # below the largest draw
        (1.20, 1.04, 1.40, "no different from random gates (1.20, random gates 1.05)"),  # the images do not agree
        (0.90, 0.85, 0.95, "avoids objects (0.90, random gates 1.05)"),
        (0.99, 0.97, 1.02, "no different from random gates (0.99, random gates 1.05)"),
        (0.90, 0.70, 1.06, "no different from random gates (0.90, random gates 1.05)"),
    ],
)
def test_the_verdict_needs_all_draws_and_the_interval(value, low, high, said):
    assert Focus(value, low, high, 1.05, 0.98, 1.12, 64, {}).verdict == said


def test_the_value_is_the_mean_gain_inside_divided_by_that_outside():
    block = gated(1.0)
    outline = box(0.25, 0.5, 0.75, 0.75)
    x = torch.rand(1, 16, CELLS, CELLS)
    with FocusMeter(block) as meter, torch.no_grad():
        gain = (block(x).abs().sum(1) / x.abs().sum(1))[0]
        meter.update([Objects([outline], (SIDE, SIDE))], [WHOLE], (SIDE, SIDE))
    inside = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    inside[16:24, 8:24] = True
    expected = gain[inside].mean() / gain[~inside].mean()
    assert meter.result()[""].value == pytest.approx(expected.item(), rel=1e-5)


def test_a_block_of_random_gates_is_like_random_gates():
    torch.manual_seed(3)
    block = ELA(16)
    nn.init.normal_(block.gn.bias, 0, 0.5)
    said = measured(block, [box(0.25, 0.25, 0.5, 0.5)], shift=0.5).verdict
    assert said.startswith("no different from random gates")


def test_padding_counts_neither_inside_nor_outside():
    """Gates that are small in the padding alone must not make the rest look favoured."""
    parts = covered((64, 128), (SIDE, SIDE))  # a quarter above and one below is padding
    block = gated(2.0)
    x = torch.full((1, 16, CELLS, CELLS), 0.1)
    x[:, :, CELLS // 4 : 3 * CELLS // 4] = 1
    with FocusMeter(block) as meter:
        block(x)
        meter.update([Objects([box(0.25, 0, 0.5, 1)], (64, 128))], [parts], (SIDE, SIDE))
    assert meter.result()[""].value == pytest.approx(1, abs=1e-4)


def test_sizes_are_those_of_coco_in_the_image():
    outlines = [box(0.1, 0.1, 0.12, 0.12), box(0.3, 0.3, 0.4, 0.4), box(0.5, 0.5, 0.9, 0.9)]
    objects = Objects(outlines, (500, 500))
    assert objects.areas() == pytest.approx([100, 2500, 40000], rel=1e-3)
    block = gated(1.5)
    with FocusMeter(block) as meter:
        block(torch.rand(1, 16, 64, 64))
        meter.update([objects], [WHOLE], (512, 512))
    assert list(meter.result()[""].sizes) == ["small", "medium", "large"]


def test_an_image_without_objects_or_without_anything_else_tells_nothing():
    block = gated(1.5)
    with FocusMeter(block) as meter:
        for outlines in ([], [box(0, 0, 1, 1)]):
            block(torch.rand(1, 16, CELLS, CELLS))
            meter.update([Objects(outlines, (SIDE, SIDE))], [WHOLE], (SIDE, SIDE))
    assert meter.result() == {}


def test_random_gates_leave_the_block_and_the_random_numbers_alone():
    block = gated(1.0)
    before, state = [each.clone() for each in block.parameters()], torch.get_rng_state()
    measured(block, [box(0.25, 0.25, 0.5, 0.5)], images=2)
    assert all(torch.equal(*pair) for pair in zip(before, block.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state()) and not block._forward_hooks


def test_the_report_as_json_has_the_focus_and_its_control(tmp_path):
    focus = Focus(1.3, 1.25, 1.36, 1.08, 1.02, 1.12, 64, {"small": 1.1})
    report = GateReport((GateHealth("3", "ELA-B paper", 0.5, 0.07, 0, 0.27, focus),), 64)
    told = str(report)
    assert "| 1.30 (1.25 to 1.36) | 1.08 (1.02 to 1.12) | favours objects (1.30, random gates 1.08) |" in told
    assert told.endswith("over 64 images; focus by size of object:\n\n| layer | small |\n|---|---|\n| 3 | 1.10 |")
    report.save(tmp_path / "attention.json")
    kept = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert kept["schema"] == 1 and kept["blocks"][0]["focus"]["control_high"] == 1.12
    assert kept["blocks"][0]["verdict"] == report.blocks[0].verdict


def write_labels(folder, label, task_keys=""):
    (folder / "images/val").mkdir(parents=True)
    (folder / "labels/val").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/val/one.png"), np.full((64, 128, 3), 90, np.uint8))
    (folder / "labels/val/one.txt").write_text(label, encoding="utf-8")
    yaml = folder / "data.yaml"
    yaml.write_text(
        f"path: {folder}\ntrain: images/val\nval: images/val\nnames: [thing]\n{task_keys}", encoding="utf-8"
    )
    return yaml


@pytest.mark.parametrize(
    ("task", "label", "points"),
    [
        ("detect", "0 0.5 0.5 0.5 0.25\n", 4),
        ("segment", "0 0.2 0.2 0.8 0.2 0.5 0.8\n", 3),
        ("obb", "0 0.2 0.5 0.5 0.2 0.8 0.5 0.5 0.8\n", 4),
        ("pose", "0 0.5 0.5 0.5 0.25 0.4 0.4 2\n", 4),
    ],
)
def test_labels_of_every_task_with_objects(task, label, points, tmp_path):
    yaml = write_labels(tmp_path / "data", label, "kpt_shape: [1, 3]\n" if task == "pose" else "")
    ((image, outlines),) = labelled_objects(str(yaml), "val", task).items()
    assert image.name == "one.png" and [len(each) for each in outlines] == [points]
    numbers = [float(number) for number in label.split()[1:]]
    if task in ("segment", "obb"):
        assert outlines[0].ravel().tolist() == pytest.approx(numbers)
    else:
        assert outlines[0].min(0).tolist() == pytest.approx([0.25, 0.375])


def test_tasks_without_objects_have_no_focus():
    assert labelled_objects("scenes.yaml", "val", "classify") == {}


def test_the_focus_of_a_trained_model_is_what_its_own_output_says(retrained):
    """The command's path, against a computation of its own from the model's maps."""
    weights = retrained / "weights/best.pt"
    report = gate_health(weights, "scenes.yaml", imgsz=64)
    scenes = render(HOME / "datasets/ela-yolo-scenes")
    model: Any = YOLO(weights)
    model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    seen, logs = {}, []

    def look(_module, inputs, output):
        seen["gain"] = (output.abs().sum(1) / inputs[0].abs().sum(1))[0].numpy()

    named_blocks(model.predictor.model)["3"].register_forward_hook(look)
    for image in sorted((scenes / "images/val").iterdir()):
        (result,) = model.predict(image, imgsz=64, verbose=False)
        pixels = np.kron(seen["gain"], np.ones((4, 4)))
        height, width = result.orig_shape
        tall, wide = (round(side * 64 / max(height, width)) for side in (height, width))
        top, left = (pixels.shape[0] - tall) // 2, (pixels.shape[1] - wide) // 2
        pixels = pixels[top : top + tall, left : left + wide]
        inside = np.zeros(pixels.shape, bool)
        label = scenes / "labels/val" / f"{image.stem}.txt"
        for line in label.read_text(encoding="utf-8").splitlines():
            x, y, w, h = (float(number) for number in line.split()[1:])
            rows = slice(round((y - h / 2) * tall), round((y + h / 2) * tall))
            inside[rows, round((x - w / 2) * wide) : round((x + w / 2) * wide)] = True
        logs.append(math.log(pixels[inside].mean() / pixels[~inside].mean()))
    assert abs(np.mean(logs)) > 0.01
    assert report.blocks[0].focus.value == pytest.approx(math.exp(np.mean(logs)), abs=0.003)
