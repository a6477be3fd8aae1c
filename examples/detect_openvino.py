"""Detects with an exported OpenVINO folder, in OpenVINO and OpenCV alone: no torch, no ultralytics, no ela-yolo.

``pip install openvino opencv-python pyyaml``, put this file beside ``detect_onnx.py``, whose pictures and boxes it
shares, then ``python detect_openvino.py best_openvino_model picture.jpg [drawn.jpg]``.
"""

import sys
from pathlib import Path

import cv2
import openvino
import yaml
from detect_onnx import detections, letterbox, show


def main(folder, source, target=None):
    """Detect in one picture."""
    metadata = yaml.safe_load((Path(folder) / "metadata.yaml").read_text(encoding="utf-8"))
    model = next(Path(folder).glob("*.xml"))
    # Without this a CPU that has bfloat16 computes in it, and boxes move by some pixels.
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    picture = cv2.imread(source)
    image, place = letterbox(picture, *metadata["imgsz"])
    show(picture, detections(compiled(image)[0], place), metadata["names"], target)


if __name__ == "__main__":
    main(*sys.argv[1:])
