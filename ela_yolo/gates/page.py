"""Writes a page of one file, which needs no server and no network, to look at the gates of many images."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ela_yolo.gates.capture import Gates
from ela_yolo.gates.placement import Array, Part
from ela_yolo.util.files import written_whole

PAGE = "index.html"
MOST = 60  # images; a page with more would be slow to open
SIDE = 512  # px, the longer side of an image in the page
CELLS = 96  # a larger map is shrunk
SPAN = 2.0  # binary logarithms of -2 to 2 are kept, in bytes


class Page:
    """Collects what a page shows: at most 60 images."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        image: Array,
        gates: Mapping[str, Gates],
        objects: Sequence[tuple[Array, str]],
        parts: tuple[Part, Part],
        beside: Mapping[str, Array],
    ) -> None:
        """Add an image, unless there are enough.

        Args:
            name: The name of the image.
            image: The image.
            gates: Layer -> gates.
            objects: The outline of each detection, ``(N, 2)`` of x and y as shares of the image, and its label.
            parts: The parts of the network's input that the image covers, along height and width.
            beside: Title -> further picture of the same size.

        Shape:
            - image, beside: ``(H, W, 3)`` of 8 bits, BGR
        """
        if len(self._images) == MOST:
            return
        self._images.append(
            {
                "name": name,
                "width": image.shape[1],
                "height": image.shape[0],
                "files": {title: _jpeg(picture) for title, picture in {"image": image, **beside}.items()},
                "objects": [{"outline": np.round(outline, 4).tolist(), "label": label} for outline, label in objects],
                "parts": [[part.start, part.length] for part in parts],
                "blocks": [_block(layer, of_layer) for layer, of_layer in gates.items()],
            }
        )

    def write(self, file: Path, table: Sequence[Sequence[str]] | None) -> None:
        """Write the page, with a table below the images if there is one; its first row is the head."""
        template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        content = json.dumps({"images": self._images, "table": table}, separators=(",", ":"))
        with written_whole(file) as part:
            # "<" could end the script that holds the data
            part.write_text(template.replace("/*DATA*/", content.replace("<", "\\u003c")), encoding="utf-8")


def detected(result: Any) -> list[tuple[Array, str]]:
    """Return the outline of each detection of an Ultralytics result, as shares of the image, and its label."""
    if result.obb is not None:
        outlines, boxes = result.obb.xyxyxyxyn.cpu().numpy(), result.obb
    elif result.boxes is None:
        return []
    elif result.masks is not None:
        outlines, boxes = [outline[:: 1 + len(outline) // 60] for outline in result.masks.xyn], result.boxes
    else:
        outlines, boxes = (
            [box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for box in result.boxes.xyxyn.cpu()],
            result.boxes,
        )
    labels = [f"{result.names[int(number)]} {score:.2f}" for number, score in zip(boxes.cls, boxes.conf, strict=True)]
    return [(np.asarray(outline), label) for outline, label in zip(outlines, labels, strict=True)]


def _block(layer: str, gates: Gates) -> dict[str, Any]:
    gain = np.log2(gates.relative_gain()[0].float().cpu().numpy())
    height, width = (min(length, CELLS) for length in gain.shape)
    gain = cv2.resize(gain, (width, height), interpolation=cv2.INTER_AREA)
    along = {"h": (gates.along_h, height), "w": (gates.along_w, width)}
    means = {key: np.log2(gate[0].float().cpu().numpy()).mean(0) for key, (gate, _) in along.items()}
    strips = {
        key: cv2.resize(means[key][None] - means[key].mean(), (length, 1), interpolation=cv2.INTER_AREA)
        for key, (_, length) in along.items()
    }
    return {
        "layer": layer,
        "block": gates.block,
        "size": [height, width],
        "gain": _bytes(gain),
        **{key: _bytes(strip) for key, strip in strips.items()},
    }


def _bytes(logarithms: Array) -> str:
    scaled = np.clip(np.nan_to_num(logarithms), -SPAN, SPAN) / SPAN * 127 + 128
    return base64.b64encode(np.round(scaled).astype(np.uint8).tobytes()).decode()


def _jpeg(image: Array) -> str:
    gain = min(1, SIDE / max(image.shape[:2]))
    small = image if gain == 1 else cv2.resize(image, None, fx=gain, fy=gain, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"
