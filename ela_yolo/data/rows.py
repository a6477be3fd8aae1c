"""Renders a data set in which attention along rows and columns matters: planning boards with round magnets.

A magnet is "flagged" if there is a red flag at the left end of its row or at the top end of its column, and "free"
otherwise. Flags are drawn after the magnets and independently of them, so a magnet and its surroundings say nothing
about its class. Rows and columns lie 10 px apart, which is finer than the coarsest feature maps of a detector.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ela_yolo.data.render import Array, Object, Rng, hsv_to_bgr, write_data_set

CLASSES = ("free", "flagged")
SPLITS = {"train": 256, "val": 96}  # images
SIDE = 128  # px
CELLS = 9  # rows, and columns
PITCH = 10  # px from row to row, and from column to column
HEADER = 33  # px left of the first column, and above the first row
FLAGS = 4  # flagged rows or columns
MAGNETS = (10, 15)
DIAMETER=(8,11)
FLAG = (24, 7)  # px, along and across the row


def render(folder: str | Path, seed: int = 0) -> Path:
    """Render the data set into a new folder; a folder that holds the finished data set is left as it is.

    Args:
        folder: The folder for ``images/`` and ``labels/``, each with ``train/`` (384 images) and ``val/`` (96 images).
        seed: The seed of the boards.

    Returns:
        The folder.

    Raises:
        RenderError: If the folder holds something else, or cannot be written.
    """
    return write_data_set(Path(folder), SPLITS, render_board, seed)


def render_board(rng: Rng) -> tuple[Array, list[Object]]:
    """Return one BGR image, uint8 ``(128, 128, 3)``, and its objects as (class, left, top, right, bottom) in px.

    Example:
        >>> image, objects = render_board(np.random.default_rng(0))
        >>> image.shape, len(objects) > 0
        ((128, 128, 3), True)
    """
    image = _board(rng)
    cells = rng.choice(CELLS * CELLS, size=int(rng.integers(*MAGNETS)), replace=False)
    boxes = [_magnet(rng, image, cell // CELLS, cell % CELLS) for cell in cells.tolist()]
    by_row = bool(rng.integers(2))
    rows, columns = (_apart(rng), []) if by_row else ([], _apart(rng))
    for row in rows:
        _flag(rng, image, row, along_row=True)
    for column in columns:
        _flag(rng, image, column, along_row=False)
    flagged = [cell // CELLS in rows or cell % CELLS in columns for cell in cells.tolist()]
    light = np.linspace(*rng.uniform(0.85, 1.1, 2), SIDE)[None, :, None]
    noise = rng.normal(0, rng.uniform(3, 8), image.shape)
    shown = np.clip(image * light + noise, 0, 255).astype(np.uint8)
    return shown, [(int(flag), *box) for flag, box in zip(flagged, boxes, strict=True)]


def _centre(number: int) -> int:
    return HEADER + PITCH * number + PITCH // 2


def _apart(rng: Rng) -> list[int]:
    """Return the flagged rows or columns; no two are neighbours, so each has rows without a flag beside it."""
    gaps = np.sort(rng.choice(CELLS - FLAGS + 1, size=FLAGS, replace=False))
    return (gaps + np.arange(FLAGS)).tolist()


def _board(rng: Rng) -> Array:
    """Return an empty board: paper, ruled lines, and a word or two of handwriting at the head of each row and column."""
    image = np.full((SIDE, SIDE, 3), hsv_to_bgr(rng, hue=(10, 110), saturation=(5, 40), value=(190, 240)), np.float32)
    blotches = cv2.resize(rng.random((6, 6), dtype=np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    image *= 0.9 + 0.15 * blotches[..., None]
    ruled = image.mean() * rng.uniform(0.8, 0.9)
    end = HEADER + CELLS * PITCH
    for number in range(CELLS + 1):
        place = HEADER + number * PITCH
        image[place, 4:end] = ruled
        image[4:end, place] = ruled
    ink = hsv_to_bgr(rng, hue=(0, 180), saturation=(0, 80), value=(40, 110))
    for number in range(CELLS):
        for along_row in (True, False):
            _word(rng, image if along_row else image.transpose(1, 0, 2), ink, 4, _centre(number))
    return image


def _word(rng: Rng, image: Array, ink: Array, left: int, middle: int) -> None:
    length = int(rng.integers(8, 16))
    heights = np.convolve(rng.uniform(-3, 3, length), [0.25, 0.5, 0.25], mode="same")
    for step, height in enumerate(heights):
        y = round(middle + height)
        image[y - (step % 3 == 0) : y + 1, left + step] = ink


def _magnet(rng: Rng, image: Array, row: int, column: int) -> tuple[int, int, int, int]:
    """Draw a round magnet with a shade and a highlight into a cell, and return its box."""
    diameter = int(rng.integers(*DIAMETER))
    left, top = (_centre(number) - diameter // 2 + int(rng.integers(-1, 2)) for number in (column, row))
    steps = (np.arange(diameter * 4) + 0.5) / (diameter * 2) - 1
    x, y = np.meshgrid(steps, steps)
    radius = np.hypot(x, y)
    colour = hsv_to_bgr(rng, hue=(15, 165), saturation=(0, 220), value=(40, 230))
    light = 0.85 - 0.25 * (x + y) / 2 - 0.25 * (radius > 0.8) + 0.5 * (np.hypot(x + 0.35, y + 0.35) < 0.25)
    size = (diameter, diameter)
    cover = cv2.resize((radius <= 1).astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
    paint = cv2.resize((light[..., None] * colour).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    below = image[top + 1 : top + diameter + 1, left + 1 : left + diameter + 1]
    below *= 1 - 0.3 * cover
    area = image[top : top + diameter, left : left + diameter]
    area[:] = paint * cover + area * (1 - cover)
    return left, top, left + diameter, top + diameter


def _flag(rng: Rng, image: Array, number: int, along_row: bool) -> None:
    length, width = FLAG
    first = _centre(number) - width // 2 + int(rng.integers(-1, 2))
    start = int(rng.integers(3, 7))
    area = (slice(first, first + width), slice(start, start + length))
    image[area if along_row else area[::-1]] = hsv_to_bgr(rng, hue=(175, 185), saturation=(190, 250), value=(190, 250))
