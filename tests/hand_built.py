"""A detector whose weights are set by hand, so that an object's class depends on a mark in its row by construction."""

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from helpers import save
from ultralytics import YOLO

ROWS = """
nc: 2
backbone:
  - [-1, 1, Conv, [16, 8, 8, 0, 1, 1, False]]
  - [-1, 1, ELA, [{gate: identity}]]
  - [-1, 1, ELA, [{gate: identity}]]
head:
  - [[2], 1, Detect, [nc]]
"""
CELL, CELLS = 8, 8  # px, and along each side
NAMES = ("open", "marked")


def build(folder):
    """The checkpoint, of stride 8: a blue cell is an object, and "marked" if there is a red mark in its row.

    The first block's gates tell the rows apart. Those of the second vary too, in a channel that nothing reads.
    """
    file = folder / "built.yaml"
    file.write_text(ROWS)
    made = YOLO(file)
    conv, first, second, head = made.model.eval().model
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "dfl" not in name:  # which holds the numbers of its bins
                parameter.zero_()
        for norm in (each for each in made.model.modules() if isinstance(each, torch.nn.BatchNorm2d)):
            norm.weight.fill_(1)
            norm.running_var.fill_(1 - norm.eps)
        # Of red, green and blue: mark and, faintly, object; object alone; mark alone; and brightness in channel 5.
        for channel, colors in ((0, (1, -1.3, 0.3)), (1, (0, -1, 1)), (2, (1, -1, 0)), (5, (1, 1, 1))):
            conv.conv.weight[channel] = torch.tensor(colors)[:, None, None] / CELL**2
        for block, channel in ((first, 0), (second, 5)):
            block.conv.weight[:, 0, 3] = 1  # the middle of the kernel
            block.gn.weight[channel] = 4
        (box,), (label,) = head.cv2, head.cv3
        if not hasattr(label[0], "conv"):
            pytest.skip(f"the head of ultralytics {ultralytics.__version__} has other layers")
        box[-1].bias.view(4, -1)[:, :2] = 20  # half a cell to each side
        for layer in label[:2]:
            for channel in range(3):
                layer.conv.weight[channel, channel, 1, 1] = 1
        label[0].bn.bias.fill_(20)  # where SiLU is the identity
        weights = torch.tensor([[-333.0, 100 * 0.2 + 33, -1500], [333, -100 * 0.2 + 33, -1500]])
        label[-1].weight[:, :3, 0, 0] = weights
        label[-1].bias[:] = -10 - 20 * weights.sum(1)
    made.model.names = dict(enumerate(NAMES))
    return save(made, folder / "built.pt")


def draw(number):
    """An image, its objects as (class, row, column), and its marked rows; a mark is two cells at the left end."""
    rng = np.random.default_rng(number)
    image = np.full((CELLS, CELLS, 3), 77, np.uint8)
    marked = rng.choice(CELLS, 4, replace=False).tolist()
    image[marked, :2] = (77, 77, 255)  # BGR
    rows = rng.choice(CELLS, 5, replace=False).tolist()
    columns = rng.permutation(range(3, CELLS)).tolist()  # no two in one, so that their gates are alike
    objects = [(int(row in marked), row, column) for row, column in zip(rows, columns, strict=True)]
    for _, row, column in objects:
        image[row, column] = (154, 77, 77)
    return image.repeat(CELL, 0).repeat(CELL, 1), objects, marked


def data_set(folder, count=12):
    """The data set's YAML."""
    for number in range(count):
        image, objects, _ = draw(number)
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"images/{number:02}.png"), image)
        lines = [
            f"{label} {(column + 0.5) / CELLS} {(row + 0.5) / CELLS} {1 / CELLS} {1 / CELLS}\n"
            for label, row, column in objects
        ]
        (folder / f"labels/{number:02}.txt").write_text("".join(lines))
    file = folder / "marks.yaml"
    file.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": [*NAMES]}))
    return file
