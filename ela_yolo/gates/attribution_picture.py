"""Draws which places of an image raise or lower the score of each detection through attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ela_yolo.gates.attribution import Trace
from ela_yolo.gates.geometry import WHOLE, Part, over_image
from ela_yolo.host.calls import Array

LOWERS, RAISES = "#2166ac", "#b2182b"  # blue and red, which the colour-blind tell apart too
FULL = 0.2  # logits per 0.1% of the input's area: the full colour, in every picture
SMALL = 0.1  # logits: a change below it is called none
COLUMNS = 4  # panels in a row, at most
PANEL = 2.9  # in, the width of a panel
SIDE = 640  # px, the longer side of an image as it is drawn
TITLE = "What each detection gets through attention: red places raise its score, blue places lower it"


@dataclass(frozen=True)
class Detection:
    """A detection, or a class of a classifier, with what attention adds to it.

    Attributes:
        name: The name of the class.
        score: The score.
        outline: The corners of the box or the mask, ``(N, 2)`` of x and y as shares of the image; None for a
            classifier.
        traces: Layer -> trace; empty if the detection could not be traced.
    """

    name: str
    score: float
    outline: Array | None
    traces: Mapping[str, Trace]

    @property
    def strongest(self) -> str | None:
        """The layer of the block that changes this detection the most; None if it could not be traced."""
        return max(self.traces, key=lambda layer: abs(self.traces[layer].change), default=None)

    def told(self, layer: str) -> tuple[str, str]:
        """Return two lines about this detection and a block: both scores, and what the block changes."""
        trace = self.traces[layer]
        head = f"{self.name} {self.score:.2f}, without attention {trace.blank:.2f}"
        if abs(trace.change) < SMALL:
            return head, f"attention at layer {layer} makes no difference"
        verb = "raises" if trace.change > 0 else "lowers"
        return head, f"attention at layer {layer} {verb} its logit by {abs(trace.change):.2f}"


def density(trace: Trace) -> Array:
    """Return a trace's map in logits per 0.1% of the input's area, which does not depend on the map's resolution.

    Shape:
        - Output: ``(H, W)``
    """
    return np.asarray(trace.places * trace.places.size / 1000)


def plot_attention(
    image: Array,
    detections: Sequence[Detection],
    parts: tuple[Part, Part] = WHOLE,
    layer: str | None = None,
) -> tuple[Any, list[Any]]:
    """Draw what each detection of an image gets through attention.

    The first panel shows the image with its detections, and numbers those that have a panel. Each further panel shows
    one detection and the block that changes it the most: red places raise its score through this block's attention, and
    blue places lower it. The title names the score as it is and with blank strips, which is the score without this
    block's attention. The colors mean the same in every picture, so a block without effect leaves the image gray.

    Args:
        image: The image.
        detections: The detections; those with traces have a panel each.
        parts: The parts of the network's input that the image covers, along height and width.
        layer: The layer of the block to show; None means for each detection the one that changes it the most.

    Shape:
        - image: ``(H, W, C)`` of 8 bits: gray, BGR, or with more channels, of which the first three are drawn

    Returns:
        The figure of matplotlib and its panels.

    Examples:
        >>> trace = Trace(blank=0.11, change=5.94, places=np.full((8, 8), 5.94 / 64))
        >>> corners = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.1, 0.3]])
        >>> detection = Detection("flagged", 0.98, corners, {"3": trace})
        >>> detection.told("3")
        ('flagged 0.98, without attention 0.11', 'attention at layer 3 raises its logit by 5.94')
        >>> figure, panels = plot_attention(np.zeros((64, 64, 3), np.uint8), [detection])
        >>> len(panels)
        2
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    shown = [each for each in detections if each.traces]
    count = 1 + len(shown)
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    height = PANEL * image.shape[0] / image.shape[1] + 0.4
    figure = Figure(figsize=(max(PANEL * columns, 6.5) + 0.9, height * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    panels = panels[:count]
    picture = resized(bgr(image), SIDE)
    gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    panels[0].imshow(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    what = "classes" if detections and detections[0].outline is None else "detections"
    panels[0].set_title(f"the image and its {len(detections)} {what}", fontsize=8, loc="left")
    numbers = {id(each): number for number, each in enumerate(shown, 1)}
    for detection in detections:
        _draw_outline(panels[0], detection.outline, gray.shape, numbers.get(id(detection)))
    for number, (panel, detection) in enumerate(zip(panels[1:], shown, strict=True), 1):
        of = detection.strongest if layer is None else layer
        assert of is not None
        _draw_map(panel, gray, over_image(density(detection.traces[of]), parts, gray.shape), detection.outline)
        head, change = detection.told(of)
        panel.set_title(f"{number}: {head}\n{change}", fontsize=8, loc="left")
    for panel in panels:
        panel.set_axis_off()
    if shown:
        figure.suptitle(TITLE, fontsize=9.5, x=0.01, ha="left")
        colors = LinearSegmentedColormap.from_list("attribution", [LOWERS, "white", RAISES])
        bar = figure.colorbar(ScalarMappable(Normalize(-FULL, FULL), colors), ax=panels, shrink=0.7, aspect=30)
        bar.set_ticks([-FULL, 0, FULL], labels=[f"lowers\n-{FULL}", "no effect", f"raises\n+{FULL}"], fontsize=8)
        bar.set_label("change of the logit per 0.1% of the image", fontsize=8)
        bar.outline.set_visible(False)
    elif not detections:
        panels[0].set_title("nothing is detected in this image", fontsize=8, loc="left")
    return figure, panels


def _draw_map(panel: Any, gray: Array, values: Array, outline: Array | None) -> None:
    from matplotlib.colors import to_rgb

    share = np.nan_to_num(np.clip(values / FULL, -1, 1))
    colors = np.empty((*share.shape, 4))
    colors[..., :3] = np.where(share[..., None] > 0, to_rgb(RAISES), to_rgb(LOWERS))
    colors[..., 3] = 0.85 * np.abs(share)  # where a place has no effect, the image shows
    panel.imshow(gray, cmap="gray", vmin=-60, vmax=315)  # paler, so that the colors stand out
    panel.imshow(colors)
    _draw_outline(panel, outline, gray.shape)


def _draw_outline(panel: Any, outline: Array | None, size: tuple[int, ...], number: int | None = None) -> None:
    """Draw the outline of a detection, and its number beside it, in black and white: colors have another meaning."""
    panel.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    if outline is None:
        return
    closed = np.concatenate([outline, outline[:1]]) * size[::-1] - 0.5
    panel.plot(closed[:, 0], closed[:, 1], color="white", linewidth=3)
    panel.plot(closed[:, 0], closed[:, 1], color="black", linewidth=1.5)
    if number is not None:
        x, y = closed[:, 0].max(), closed[:, 1].min()
        box = {"facecolor": "white", "edgecolor": "black", "pad": 1.5, "linewidth": 0.8}
        side = "left" if x < 0.95 * size[1] else "right"  # within the picture
        panel.text(x, max(y, 0.05 * size[0]), str(number), fontsize=8, bbox=box, ha=side, va="bottom", clip_on=True)


def bgr(picture: Array) -> Array:
    """Return a picture with three channels. One with more or fewer is changed as Ultralytics draws it."""
    if picture.ndim == 2 or picture.shape[2] == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    missing = max(3 - picture.shape[2], 0)
    return np.ascontiguousarray(np.pad(picture, ((0, 0), (0, 0), (0, missing)))[..., :3])


def resized(picture: Array, side: int) -> Array:
    """Return a picture whose longer side has this many px."""
    gain = side / max(picture.shape[:2])
    way = cv2.INTER_CUBIC if gain > 1 else cv2.INTER_AREA
    height, width = (max(1, round(side * gain)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=way)
