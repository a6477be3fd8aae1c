"""Computes where an image lies in the network's input, and brings maps of the network to the pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ela_yolo.host.calls import Array


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
