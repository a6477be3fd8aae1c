"""Detects with an exported ONNX file, in ONNX Runtime and OpenCV alone: no torch, no ultralytics, no ela-yolo.

``pip install onnxruntime opencv-python``, then ``python detect_onnx.py best.onnx picture.jpg [drawn.jpg]``. Prints the
class, score and corners of each detection. Takes detectors, with NMS in the file (``nms=True``, YOLO26) or without.
"""

import ast
import sys

import cv2
import numpy as np

CONFIDENCE, IOU = 0.25, 0.7


def letterbox(picture, height, width):
    """Return the network's input, (1, 3, H, W), and what maps its pixels back: scale, left, top."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    resized = cv2.resize(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)))
    top, left = (height - resized.shape[0]) / 2, (width - resized.shape[1]) / 2
    sides = [round(top - 0.1), round(top + 0.1), round(left - 0.1), round(left + 0.1)]
    padded = cv2.copyMakeBorder(resized, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    image = padded[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255  # BGR to RGB
    return np.ascontiguousarray(image), (scale, sides[2], sides[0])


def detections(output, place):
    """Return rows of (x1, y1, x2, y2, score, class) in pixels of the picture, best first."""
    if output.shape[2] == 6:  # the file ends with its selection of boxes
        rows = output[0][output[0][:, 4] > CONFIDENCE]
    else:  # (1, 4 + classes, N): center, size, scores
        found = output[0].T[output[0, 4:].max(0) > CONFIDENCE]
        corner, size, scores = found[:, :2] - found[:, 2:4] / 2, found[:, 2:4], found[:, 4:]
        boxes, score, kind = np.hstack([corner, size]), scores.max(1), scores.argmax(1)
        kept = np.array(cv2.dnn.NMSBoxesBatched(boxes, score, kind, CONFIDENCE, IOU), int).ravel()
        rows = np.column_stack([corner, corner + size, score, kind])[kept]
    scale, left, top = place
    rows[:, :4] = (rows[:, :4] - [left, top, left, top]) / scale
    return rows[np.argsort(-rows[:, 4])]


def show(picture, rows, names, target=None):
    """Print the detections, and draw them into a file if one is named."""
    for *box, score, kind in rows:
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        print(f"{names[int(kind)]} {score:.3f} {x1} {y1} {x2} {y2}")
        cv2.rectangle(picture, (x1, y1), (x2, y2), (0, 160, 255), 2)
        label = f"{names[int(kind)]} {score:.2f}"
        cv2.putText(picture, label, (x1, max(y1 - 5, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 160, 255), 1, cv2.LINE_AA)
    if target:
        cv2.imwrite(target, picture)


def main(file, source, target=None):
    """Detect in one picture."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    height, width = ast.literal_eval(metadata["imgsz"])
    stride = int(metadata["stride"])
    assert height % stride == width % stride == 0, f"{file} was exported at a size that its stride does not divide"
    picture = cv2.imread(source)
    image, place = letterbox(picture, height, width)
    output = session.run(None, {session.get_inputs()[0].name: image})[0]
    show(picture, detections(output, place), ast.literal_eval(metadata["names"]), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
