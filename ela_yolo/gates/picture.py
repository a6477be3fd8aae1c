"""Draws a model's gates over an image, and computes where the image lies in the network's input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from ela_yolo.gates.capture import Gates

Array = np.ndarray[Any, Any]

# Gate form -> the range of the scale map's colours, of the gates' axes, and the colour map.
RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], str]] = {
    "paper": ((0, 1), (0, 1), "viridis"),
    "residual": ((1, 2), (0, 1), "viridis"),
    "identity": ((0, 2), (0, 2), "RdBu_r"),
}
COLUMNS = 3
OPACITY = 0.55  # of the colours over the image
PANEL = 5.0  # in, the width of a panel
SIDE = 640  # px, the longer side of an image as it is drawn


@dataclass(frozen=True)
class Part:
    """The part of the network's input that the image covers along one axis, as shares of the input.

    Attributes:
        start: The start of the image; below 0 if the input shows only the middle of the image.
        length: The length of the image.
    """

    start: float
    length: float


WHOLE = (Part(0, 1), Part(0, 1))


def covered(image: tuple[int, int], network: tuple[int, int], fit: str = "letterbox") -> tuple[Part, Part]:
    """Return the parts of the network's input that an image covers, along height and width.

    Args:
        image: Height and width of the image, in px.
        network: Height and width of the network's input, in px.
        fit: How Ultralytics fits the image into the input: ``letterbox``, ``crop`` to its middle, or ``stretch``.
    """
    if fit == "stretch":
        return WHOLE
    shares = [inside / outside for inside, outside in zip(network, image, strict=True)]
    gain = max(shares) if fit == "crop" else min(shares)
    parts = []
    for inside, outside in zip(network, image, strict=True):
        length = max(round(outside * gain), 1)
        start = round((inside - length) / 2 - 0.1)  # as Ultralytics rounds it
        parts.append(Part(start / inside, length / inside))
    return parts[0], parts[1]


def along_image(values: Array, part: Part, pixels: int) -> Array:
    """Return a gate, or each row of a map, interpolated at the pixels of the image.

    Args:
        values: The values of cells that divide the network's input evenly.
        part: The part of the input that the image covers.
        pixels: The number of pixels of the image along this axis.

    Shape:
        - values: ``(..., L)``
        - Output: ``(..., pixels)``; NaN where the network did not see the image
    """
    places = part.start + part.length * (np.arange(pixels) + 0.5) / pixels
    cells = (places * values.shape[-1] - 0.5).clip(0, values.shape[-1] - 1)
    lower = np.floor(cells).astype(int)
    upper = np.minimum(lower + 1, values.shape[-1] - 1)
    between: Array = values[..., lower] + (cells - lower) * (values[..., upper] - values[..., lower])
    return np.where((places < 0) | (places > 1), np.nan, between)


def over_image(scale_map: Array, parts: tuple[Part, Part], size: tuple[int, int]) -> Array:
    """Return a map interpolated at the pixels of the image.

    Shape:
        - scale_map: ``(H, W)``
        - Output: as ``size``; NaN where the network did not see the image
    """
    along_w = along_image(scale_map, parts[1], size[1])
    return along_image(along_w.T, parts[0], size[0]).T


def plot_attention(
    image: Array,
    gates: Mapping[str, Gates],
    detections: Array | None = None,
    parts: tuple[Part, Part] = WHOLE,
    stretch: bool = False,
) -> tuple[Any, list[Any]]:
    """Draw the gates of a model's ELA blocks over one image.

    The first panel shows the image with its detections. Each further panel shows one block: the grey image in the
    colours of the factor by which the block multiplies each place, as the mean over the channels. The gates are drawn
    at its left side and below it: their mean over the channels, and a band from the 10th to the 90th percentile.

    Args:
        image: The image.
        gates: Layer -> gates, as :func:`capture_gates` gives them. Of a batch, the first image is drawn.
        detections: The image with the detections drawn on it.
        parts: The parts of the network's input that the image covers, along height and width.
        stretch: Whether colours and axes span the values of this picture; otherwise the gate form sets them, the same
            in every picture.

    Shape:
        - image: ``(H, W, C)`` of 8 bits: grey, BGR, or with more channels, of which the first three are drawn
        - detections: as the image

    Returns:
        The figure of matplotlib and its panels.

    Example:
        >>> import torch
        >>> from ela_yolo import ELA, capture_gates
        >>> block = ELA(16)
        >>> with capture_gates(block) as gates:
        ...     _ = block(torch.rand(1, 16, 8, 8))
        >>> figure, panels = plot_attention(np.zeros((64, 64, 3), np.uint8), gates)
        >>> len(panels)
        2
    """
    from matplotlib.figure import Figure

    columns = min(COLUMNS, 1 + len(gates))
    rows = math.ceil((1 + len(gates)) / columns)
    height = PANEL * (0.62 * image.shape[0] / image.shape[1] + 0.3)
    figure = Figure(figsize=(PANEL * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[1 + len(gates) :]:
        unused.remove()
    panels = panels[: 1 + len(gates)]
    shown = _shrunk(_bgr(image if detections is None else detections))
    panels[0].imshow(cv2.cvtColor(shown, cv2.COLOR_BGR2RGB))
    panels[0].set_title("image" if detections is None else "detections", fontsize=10, loc="left")
    panels[0].set_axis_off()
    grey = cv2.cvtColor(_shrunk(_bgr(image)), cv2.COLOR_BGR2GRAY)
    for panel, (layer, of_layer) in zip(panels[1:], gates.items(), strict=True):
        _draw_block(panel, grey, layer, of_layer, parts, stretch)
    return figure, panels


def _draw_block(panel: Any, grey: Array, layer: str, gates: Gates, parts: tuple[Part, Part], stretch: bool) -> None:
    colours, axis, colour_map = RANGES[gates.form]
    height, width = grey.shape
    scale = over_image(_array(gates.scale_map()[0]), parts, (height, width))
    profiles = [  # mean, 10th and 90th percentile of the channels, (3, pixels)
        along_image(_profile(gate[0]), part, pixels)
        for gate, part, pixels in zip((gates.along_h, gates.along_w), parts, grey.shape, strict=True)
    ]
    low, high = float(np.nanmin(scale)), float(np.nanmax(scale))
    if stretch:
        away = max(high - 1, 1 - low)
        colours = _span(1 - away, 1 + away) if gates.form == "identity" else _span(low, high)
        axis = _span(*(float(extreme([extreme(each) for each in profiles])) for extreme in (np.nanmin, np.nanmax)))
    panel.imshow(grey, cmap="gray", vmin=0, vmax=255)
    shown = panel.imshow(scale, cmap=colour_map, vmin=colours[0], vmax=colours[1], alpha=OPACITY)
    size = "x".join(map(str, gates.map_size))
    title = f"layer {layer}: {gates.block}, map {size}\nscale {low:.4f} to {high:.4f}"
    panel.set_title(title, fontsize=10, loc="left")
    panel.set(xticks=[], yticks=[])
    bar = panel.figure.colorbar(shown, cax=panel.inset_axes([1.03, 0, 0.05, 1]))
    bar.formatter.set_useOffset(False)
    bar.ax.tick_params(labelsize=8)

    beside, below = panel.inset_axes([-0.22, 0, 0.2, 1]), panel.inset_axes([0, -0.24, 1, 0.22])
    for_h, for_w = profiles
    beside.fill_betweenx(np.arange(height), for_h[1], for_h[2], alpha=0.3, linewidth=0)
    beside.plot(for_h[0], np.arange(height))
    below.fill_between(np.arange(width), for_w[1], for_w[2], alpha=0.3, linewidth=0)
    below.plot(np.arange(width), for_w[0])
    ends = [f"{end:.4g}" for end in axis]
    beside.set(xlim=axis, ylim=(height - 0.5, -0.5), yticks=[], ylabel="H gate")
    beside.xaxis.tick_top()
    beside.set_xticks(axis, ends, fontsize=8, rotation=90 if stretch else 0)
    below.set(xlim=(-0.5, width - 0.5), ylim=axis, xticks=[], xlabel="W gate")
    below.yaxis.tick_right()
    below.set_yticks(axis, ends, fontsize=8)


def _profile(gate: Tensor) -> Array:
    values = _array(gate)
    return np.stack([values.mean(0), *np.percentile(values, (10, 90), axis=0)])


def _span(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis, which must differ."""
    return (low, high) if high - low > 1e-6 else (low - 1e-6, high + 1e-6)


def _array(values: Tensor) -> Array:
    array: Array = values.float().cpu().numpy()
    return array


def _bgr(picture: Array) -> Array:
    """Return a picture with three channels. One with more or fewer is changed as Ultralytics draws it."""
    if picture.ndim == 2 or picture.shape[2] == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    missing = max(3 - picture.shape[2], 0)
    return np.ascontiguousarray(np.pad(picture, ((0, 0), (0, 0), (0, missing)))[..., :3])


def _shrunk(picture: Array) -> Array:
    gain = min(1, SIDE / max(picture.shape[:2]))
    return picture if gain == 1 else cv2.resize(picture, None, fx=gain, fy=gain, interpolation=cv2.INTER_AREA)
