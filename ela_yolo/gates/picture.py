"""Draws what the ELA blocks of a model do to an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from ela_yolo.gates.capture import Gates
from ela_yolo.gates.placement import WHOLE, Array, Part, along_image, over_image

DAMPED, AMPLIFIED = "#2166ac", "#b2182b"  # blue and red, which the colour-blind tell apart too
LIMIT = 2.0  # colours span 1/2 to 2, in every picture
COLUMNS = 7  # panels in a row, at most
CHANNELS = 3  # small maps below a panel
PANEL = 2.6  # in, the width of a panel
SIDE = 640  # px, the longer side of an image as it is drawn
TITLE = "What each attention block does to the features at each place"
EXPLAINED = {  # height below the first panel -> what stands beside it
    -0.09: "lines at the sides: gates of the rows and\nof the columns, mean and range of the channels",
    -0.34: "small maps, in the same colours: the three\nchannels that differ most from place to place",
}


def plot_attention(
    image: Array,
    gates: Mapping[str, Gates],
    detections: Array | None = None,
    parts: tuple[Part, Part] = WHOLE,
    stretch: bool = False,
    beside: Mapping[str, Array] | None = None,
) -> tuple[Any, list[Any]]:
    """Draw what a model's ELA blocks do to one image.

    The first panel shows the image with its detections. Each further panel shows one block: the grey image, red where
    the block amplifies what the network has found there and blue where it damps it, relative to the mean over the image
    (:meth:`Gates.relative_gain`). Lines at the left side and below show the gates along the height and the width: their
    mean over the channels, and a band from the 10th to the 90th percentile; dotted is no difference. The small maps
    below show the three channels whose factor differs most from place to place.

    Args:
        image: The image.
        gates: Layer -> gates, as :func:`capture_gates` gives them. Of a batch, the first image is drawn.
        detections: The image with the detections drawn on it.
        parts: The parts of the network's input that the image covers, along height and width.
        stretch: Whether the colours span the gain of this picture; otherwise 1/2 to 2, the same in every picture.
        beside: Title -> picture of further panels, which follow the first.

    Shape:
        - image: ``(H, W, C)`` of 8 bits: grey, BGR, or with more channels, of which the first three are drawn
        - detections, beside: as the image

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

    shown = {"image" if detections is None else "detections": image if detections is None else detections}
    shown.update(beside or {})
    count = len(shown) + len(gates)
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    height = PANEL * (0.82 * image.shape[0] / image.shape[1] + 0.55)
    figure = Figure(figsize=(PANEL * columns + 0.6, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    panels = panels[:count]
    for panel, (title, picture) in zip(panels, shown.items(), strict=False):
        panel.imshow(cv2.cvtColor(_shrunk(bgr(picture)), cv2.COLOR_BGR2RGB))
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_axis_off()
    grey = cv2.cvtColor(_shrunk(bgr(image)), cv2.COLOR_BGR2GRAY)
    gains = [over_image(log_gain(of_layer), parts, grey.shape) for of_layer in gates.values()]
    limit = max([float(np.nanmax(np.abs(gain))) for gain in gains] or [0]) if stretch else math.log2(LIMIT)
    limit = max(limit, 1e-3)
    drawn = None
    for panel, (layer, of_layer), gain in zip(panels[len(shown) :], gates.items(), gains, strict=True):
        drawn = _draw_block(panel, grey, gain, limit)
        panel.set_title(f"layer {layer}", fontsize=9, loc="left")
        _draw_gates(panel, of_layer, parts, limit)
        _draw_channels(panel, of_layer, parts, grey.shape, limit)
    if drawn is not None:
        place = {"xycoords": "axes fraction", "textcoords": "offset points"}
        texts = [panels[0].annotate(TITLE, (0, 1), (0, 22), **place, fontsize=10)]
        for height, explained in EXPLAINED.items():
            texts.append(panels[0].annotate(explained, (0, height), (0, 0), **place, fontsize=6.5, va="center"))
        for text in texts:
            text.set_in_layout(False)  # or the first panel would be as wide as its text
        bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=30, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels([f"damped\n{2**-limit:.3g}x", "as the mean", f"amplified\n{2**limit:.3g}x"], fontsize=8)
        bar.outline.set_visible(False)
    return figure, panels


def log_gain(gates: Gates) -> Array:
    """Return the binary logarithm of the relative gain of the first image, ``(H, W)``."""
    gain: Array = np.log2(_array(gates.relative_gain()[0]))
    return gain


def _draw_block(panel: Any, grey: Array, gain: Array, limit: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgb

    share = np.nan_to_num(np.clip(gain / limit, -1, 1))
    colours = np.empty((*gain.shape, 4))
    colours[..., :3] = np.where(share[..., None] > 0, to_rgb(AMPLIFIED), to_rgb(DAMPED))
    colours[..., 3] = 0.8 * np.abs(share) ** 0.75  # the image shows where the block does little
    panel.imshow(grey, cmap="gray", vmin=-60, vmax=315)  # paler, so that the colours stand out
    panel.imshow(colours)
    panel.set_axis_off()
    return ScalarMappable(Normalize(-limit, limit), _colour_map())


def _colour_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gain", [DAMPED, "white", AMPLIFIED])


def _draw_gates(panel: Any, gates: Gates, parts: tuple[Part, Part], limit: float) -> None:
    height, width = panel.images[0].get_array().shape
    beside, below = panel.inset_axes([-0.14, 0, 0.12, 1]), panel.inset_axes([0, -0.14, 1, 0.12])
    for_h, for_w = (  # mean, 10th and 90th percentile of the channels, (3, pixels)
        along_image(_profile(gate[0]), part, pixels)
        for gate, part, pixels in zip((gates.along_h, gates.along_w), parts, (height, width), strict=True)
    )
    style = {"color": "0.3", "linewidth": 0.8}
    beside.fill_betweenx(np.arange(height), for_h[1], for_h[2], color="0.85", linewidth=0)
    beside.plot(for_h[0], np.arange(height), **style)
    below.fill_between(np.arange(width), for_w[1], for_w[2], color="0.85", linewidth=0)
    below.plot(np.arange(width), for_w[0], **style)
    for line in (beside.axvline, below.axhline):
        line(0, color="0.6", linewidth=0.5, linestyle=":")
    beside.set(xlim=(-limit, limit), ylim=(height - 0.5, -0.5))
    below.set(xlim=(-0.5, width - 0.5), ylim=(-limit, limit))
    for axes in (beside, below):
        axes.set_axis_off()


def _draw_channels(panel: Any, gates: Gates, parts: tuple[Part, Part], size: tuple[int, int], limit: float) -> None:
    maps = np.log2(_array(gates.channel_maps()[0]))
    maps = maps - maps.mean((1, 2), keepdims=True)
    chosen = np.argsort(-maps.std((1, 2)), kind="stable")[:CHANNELS]
    for place, channel in enumerate(chosen):
        small = panel.inset_axes([place / CHANNELS, -0.5, 0.96 / CHANNELS, 0.33])
        small.imshow(over_image(maps[channel], parts, size), cmap=_colour_map(), vmin=-limit, vmax=limit, alpha=0.8)
        small.set(xticks=[], yticks=[])
        small.spines[:].set_linewidth(0.3)


def _profile(gate: Tensor) -> Array:
    values = np.log2(_array(gate))
    values = values - values.mean(1, keepdims=True)
    return np.stack([values.mean(0), *np.percentile(values, (10, 90), axis=0)])


def _array(values: Tensor) -> Array:
    array: Array = values.float().cpu().numpy()
    return array


def bgr(picture: Array) -> Array:
    """Return a picture with three channels. One with more or fewer is changed as Ultralytics draws it."""
    if picture.ndim == 2 or picture.shape[2] == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    missing = max(3 - picture.shape[2], 0)
    return np.ascontiguousarray(np.pad(picture, ((0, 0), (0, 0), (0, missing)))[..., :3])


def _shrunk(picture: Array) -> Array:
    gain = min(1, SIDE / max(picture.shape[:2]))
    return picture if gain == 1 else cv2.resize(picture, None, fx=gain, fy=gain, interpolation=cv2.INTER_AREA)
