"""Writes a page of one file, which needs no server and no network, to look at the detections of many images."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ela_yolo.gates.attribution_picture import FULL, Detection, density, resized
from ela_yolo.gates.capture import Gates
from ela_yolo.gates.geometry import Part
from ela_yolo.host.calls import Array
from ela_yolo.util.files import atomic_write

PAGE = "index.html"
_TITLE = "<title>What detections get through attention</title>"
MOST = 60  # images; a page with more would be slow to open
SIDE = 512  # px, the longer side of an image in the page
CELLS = 96  # a larger map is shrunk
SPAN = 2.0  # binary logarithms of gates from -2 to 2 are kept, in bytes


class Page:
    """Collects what a page shows: at most 60 images."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        image: Array,
        gates: Mapping[str, Gates],
        detections: Sequence[Detection],
        parts: tuple[Part, Part],
    ) -> None:
        """Add an image, unless there are enough.

        Args:
            name: The name of the image.
            image: The image, BGR of 8 bits, ``(H, W, 3)``.
            gates: Layer -> gates.
            detections: Its detections.
            parts: The parts of the network's input that the image covers, along height and width.
        """
        if len(self._images) == MOST:
            return
        self._images.append(
            {
                "name": name,
                "width": image.shape[1],
                "height": image.shape[0],
                "file": _jpeg(image),
                "parts": [[part.start, part.length] for part in parts],
                "blocks": {layer: _block(of_layer) for layer, of_layer in gates.items()},
                "detections": [_detection(each) for each in detections if each.traces],
            }
        )

    def write(self, file: Path) -> None:
        """Write the page."""
        template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        content = json.dumps({"images": self._images, "full": FULL}, separators=(",", ":"))
        with atomic_write(file) as part:
            # "<" could end the script that holds the data
            part.write_text(template.replace("/*DATA*/", content.replace("<", "\\u003c")), encoding="utf-8")


def is_page(file: Path) -> bool:
    """Return whether a file is such a page."""
    return file.is_file() and _TITLE in file.read_text(encoding="utf-8", errors="replace")[:1000]


def _detection(detection: Detection) -> dict[str, Any]:
    outline = None if detection.outline is None else np.round(detection.outline, 4).tolist()
    traces = {}
    for layer, trace in detection.traces.items():
        values = _shrunk(density(trace))
        head, change = detection.told(layer)
        traces[layer] = {"size": values.shape, "map": _bytes(values / FULL), "head": head, "change": change}
    label = f"{detection.name} {detection.score:.2f}"
    return {"label": label, "outline": outline, "strongest": detection.strongest, "traces": traces}


def _block(gates: Gates) -> dict[str, Any]:
    """Return the mean of the gates' channels along both axes, relative to the mean over the axis."""
    strips = {}
    for key, gate in (("h", gates.along_h), ("w", gates.along_w)):
        mean = np.log2(gate[0].float().cpu().numpy()).mean(0)[None]
        strips[key] = _bytes(_shrunk(mean - mean.mean()) / SPAN)
    return {"block": gates.block, **strips}


def _shrunk(values: Array) -> Array:
    height, width = (min(length, CELLS) for length in values.shape)
    return np.asarray(cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))


def _bytes(shares: Array) -> str:
    scaled = np.clip(np.nan_to_num(shares), -1, 1) * 127 + 128
    return base64.b64encode(np.round(scaled).astype(np.uint8).tobytes()).decode()


def _jpeg(image: Array) -> str:
    _, coded = cv2.imencode(".jpg", resized(image, SIDE), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"
