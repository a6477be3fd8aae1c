"""Renders a data set in which attention along rows and columns matters: boards with round magnets.

Red flags at the left edge of a board mark rows, or flags at its top edge mark columns. A magnet is "flagged" if a flag
marks its row or its column, and "free" otherwise. Rows lie in pairs, 8 px apart, and the flag of a pair marks either
row at random. So neither a magnet nor the places of all magnets tell anything about the classes, and 8 px are finer
than the coarsest feature maps of a detector.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ela_yolo.data.render import Array, Object, Rng, hsv_to_bgr, write_data_set

CLASSES = ("free", "flagged")
SPLITS = {"train": 256, "val": 64}  # images
SIDE = 128  # px
PAIRS = 4  # pairs of rows
SPACING = (24, 29)  # px from pair to pair
APART = 8  # px from row to row in a pair
MAGNETS = (12, 19)
DIAMETERS = (8, 11)  # px
FLAG = (24, 7)  # px, along and across the row
EDGE = 40  # px that magnets stay away from the edge with the flags


def render(folder: str | Path, seed: int = 0) -> Path:
    """Render the data set into a new folder; a folder that holds the finished data set is left as it is.

    Args:
        folder: The folder for ``images/`` and ``labels/``, each with ``train/`` (256 images) and ``val/`` (64 images).
        seed: The seed of the boards.

    Returns:
        The folder.
    """
    return write_data_set(Path(folder), SPLITS, render_board, seed)


def render_board(rng: Rng) -> tuple[Array, list[Object]]:
    """Return one BGR image, uint8 ``(128, 128, 3)``, and its objects as (class, left, top, right, bottom) in px.

    Examples:
        >>> image, objects = render_board(np.random.default_rng(0))
        >>> image.shape, len(objects) > 0
        ((128, 128, 3), True)
    """
    image = _board(rng)
    rows = _rows(rng)
    magnets = _magnets(rng, image, rows)
    flagged = rng.integers(2, size=len(rows))  # which row of each pair, whatever the magnets
    for pair, which in zip(rows, flagged, strict=True):
        _flag(rng, image, pair[which])
    objects = [(int(which == flagged[pair]), *box) for pair, which, box in magnets]
    if rng.integers(2):  # the flags mark columns
        image = image.transpose(1, 0, 2)
        objects = [(label, top, left, bottom, right) for label, left, top, right, bottom in objects]
    light = np.linspace(rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1), SIDE)[None, :, None]
    noise = rng.normal(0, rng.uniform(3, 8), image.shape)
    return np.clip(image * light + noise, 0, 255).astype(np.uint8), objects


def _rows(rng: Rng) -> list[tuple[int, int]]:
    """Return the middles of both rows of each pair, in px."""
    spaces = rng.integers(*SPACING, size=PAIRS - 1)
    first = int(rng.integers(8, SIDE - 8 - APART - spaces.sum()))
    starts = first + np.concatenate([[0], spaces.cumsum()])
    return [(int(start), int(start) + APART) for start in starts]


def _board(rng: Rng) -> Array:
    """Return an empty board: gray metal with blotches."""
    color = hsv_to_bgr(rng, hue=(90, 130), saturation=(0, 20), value=(120, 180))
    mix = np.ones((SIDE, SIDE), np.float32)
    for cells, share in ((4, 0.2), (16, 0.2)):
        blotches = rng.random((cells, cells), dtype=np.float32) - 0.5
        mix += share * cv2.resize(blotches, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(color * mix[..., None], np.float32)


def _magnets(rng: Rng, image: Array, rows: list[tuple[int, int]]) -> list[tuple[int, int, tuple[int, int, int, int]]]:
    """Draw magnets into the rows; return for each the number of its pair, its row in the pair, and its box."""
    magnets: list[tuple[int, int, tuple[int, int, int, int]]] = []
    taken: list[tuple[int, int]] = []
    count = int(rng.integers(*MAGNETS))
    for _ in range(20 * count):
        pair, which, x = int(rng.integers(PAIRS)), int(rng.integers(2)), int(rng.integers(EDGE, SIDE - 7))
        if all(pair != other or abs(x - place) > DIAMETERS[1] for other, place in taken):
            taken.append((pair, x))
            magnets.append((pair, which, _magnet(rng, image, x, rows[pair][which] + int(rng.integers(-1, 2)))))
        if len(magnets) == count:
            break
    return magnets


def _magnet(rng: Rng, image: Array, x: int, y: int) -> tuple[int, int, int, int]:
    """Draw a round magnet with a shade and a highlight, and return its box."""
    diameter = int(rng.integers(*DIAMETERS))
    left, top = x - diameter // 2, y - diameter // 2
    steps = (np.arange(diameter * 4) + 0.5) / (diameter * 2) - 1
    u, v = np.meshgrid(steps, steps)
    radius = np.hypot(u, v)
    color = hsv_to_bgr(rng, hue=(15, 165), saturation=(0, 220), value=(40, 240))
    light = 0.85 - 0.25 * (u + v) / 2 - 0.25 * (radius > 0.8) + 0.5 * (np.hypot(u + 0.35, v + 0.35) < 0.25)
    size = (diameter, diameter)
    cover = cv2.resize((radius <= 1).astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
    paint = cv2.resize((light[..., None] * color).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    below = image[top + 1 : top + diameter + 1, left + 1 : left + diameter + 1]
    below *= 1 - 0.3 * cover
    area = image[top : top + diameter, left : left + diameter]
    area[:] = paint * cover + area * (1 - cover)
    return left, top, left + diameter, top + diameter


def _flag(rng: Rng, image: Array, y: int) -> None:
    """Draw a flag at the left edge."""
    length, width = FLAG
    left, top = int(rng.integers(1, 5)), y - width // 2
    color = hsv_to_bgr(rng, hue=(177, 183), saturation=(200, 230), value=(210, 240))
    image[top : top + width, left : left + length] = color
