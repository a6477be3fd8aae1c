"""The examples detect what the model does, in an environment without torch, ultralytics and ela-yolo."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import BIN, REPO, SHARED, run
from ultralytics import YOLO
from ultralytics.utils import ASSETS

from ela_yolo import ELA

PHOTOGRAPH = ASSETS / "bus.jpg"
WITHOUT = """
import sys
for name in ("torch", "ultralytics", "ela_yolo"):
    sys.modules[name] = None
import runpy
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "keys"),
    [
        pytest.param("detect_onnx.py", {"format": "onnx"}, marks=pytest.mark.nightly),
        ("detect_onnx.py", {"format": "onnx", "imgsz": (96, 128)}),
        ("detect_onnx.py", {"format": "onnx", "nms": True}),
        ("detect_openvino.py", {"format": "openvino"}),
    ],
)
def test_an_example_detects_what_the_model_does(program, keys, sure, tmp_path):
    weights = shutil.copy(sure, tmp_path / "best.pt")
    keys = {"imgsz": (96, 96), **keys}
    file = YOLO(weights).export(**keys)
    command = [BIN / "python", "-c", WITHOUT, REPO / "examples" / program, file, PHOTOGRAPH, "drawn.jpg"]
    printed = run(*command, cwd=tmp_path, env={"ELA_YOLO_AUTOLOAD": "0"}).stdout.splitlines()

    settings = {"imgsz": keys["imgsz"], "rect": False, "conf": 0.25, "iou": 0.7, "verbose": False}
    found: Any = YOLO(weights).predict(PHOTOGRAPH, **settings)[0]
    assert len(found.boxes) == len(printed) > 3
    for line, box in zip(printed, found.boxes, strict=True):
        name, score, *corners = line.split()
        assert name == found.names[int(box.cls)]
        assert float(score) == pytest.approx(box.conf.item(), abs=2e-3)
        # Ultralytics cuts boxes off at the edge of the picture.
        inside = np.clip(np.array(corners, float), 0, np.tile(found.orig_shape[::-1], 2))
        assert np.abs(inside - box.xyxy[0].numpy()).max() <= 1
    photograph, drawn = (cv2.imread(str(file)).astype(int) for file in (PHOTOGRAPH, tmp_path / "drawn.jpg"))
    assert drawn.shape == photograph.shape
    left, top, right, bottom = np.clip(np.array(printed[0].split()[2:], int), 0, np.tile(drawn.shape[1::-1], 2) - 1)
    sides = [
        drawn[top : bottom + 1, [left, right]].reshape(-1, 3),
        drawn[[top, bottom], left : right + 1].reshape(-1, 3),
    ]
    assert (abs(np.concatenate(sides) - (0, 160, 255)).max(axis=1) < 60).mean() > 0.4  # the best box is drawn


@pytest.mark.nightly
@pytest.mark.skipif(not (SHARED / "weights/yolov8n.pt").is_file(), reason="the official weights are not here")
def test_the_first_detector_ends_with_a_picture_and_a_file_that_matches(photographs, tmp_path):
    keys = f"data={photographs} model={SHARED}/weights/yolov8n.pt epochs=1 imgsz=96".split()
    done = run(BIN / "python", REPO / "examples/first_detector.py", *keys, cwd=tmp_path, timeout=600)
    assert "355/355 pretrained tensors kept" in done.stdout
    assert "the file matches within the float32 tolerance" in done.stdout
    inserted = YOLO(tmp_path / "yolov8n-ela.pt").model
    assert [block.gate for block in inserted.modules() if isinstance(block, ELA)] == ["identity"] * 4
    pictures = [cv2.imread(str(file)) for file in (tmp_path / "attention").rglob("*.[jp][pn]g")]
    assert pictures and all(picture.std() > 10 for picture in pictures)
    file = Path(done.stdout.splitlines()[-1])
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    (output,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"images": image.numpy()}
    )
    with torch.inference_mode():
        expected = YOLO(file.with_suffix(".pt")).model.float().fuse(verbose=False).eval()(image)[0]
    np.testing.assert_allclose(output, expected, atol=1e-3, rtol=1e-3)
