"""Renders the data set of the quickstart: small scenes of balls, cubes, leaves, rings and stars, with YOLO labels.

An image depends only on the seed, its split and its number. Objects are small, medium and large, so that all three
strides of a detector have work. They are shaded, overlap each other, cross the border and hide behind grass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ela_yolo.data.render import Array, Object, Rng, hsv_to_bgr, write_data_set

CLASSES = ("ball", "cube", "leaf", "ring", "star")
SPLITS = {"train": 256, "val": 64}  # images
SIDES = (128, 144, 160, 176, 192)  # px, drawn for width and height
SIZES = ((12, 22), (26, 48), (56, 96))  # px across: small, middle, large
OVERSAMPLING = 4
MIN_VISIBLE = 0.5  # of an object's area, or it gets no label


def render(folder: str | Path, seed: int = 0) -> Path:
    """Render the data set into a new folder; a folder that holds the finished data set is left as it is.

    Args:
        folder: The folder for ``images/`` and ``labels/``, each with ``train/`` (256 images) and ``val/`` (64 images).
        seed: The seed of the scenes.

    Returns:
        The folder.
    """
    return write_data_set(Path(folder), SPLITS, render_scene, seed)


def render_scene(rng: Rng) -> tuple[Array, list[Object]]:
    """Return one BGR image, uint8 ``(H, W, 3)``, and its objects as (class, left, top, right, bottom) in px.

    Examples:
        >>> image, objects = render_scene(np.random.default_rng(0))
        >>> image.dtype, image.ndim, len(objects) > 0
        (dtype('uint8'), 3, True)
    """
    height, width = (int(rng.choice(SIDES)) for _ in range(2))
    image = _background(rng, height, width)
    _grass(rng, image, blades=int(rng.integers(0, 12)))
    _pebbles(rng, image, count=int(rng.integers(0, 8)))
    owner = np.full((height, width), -1)  # which object each pixel shows
    placed: list[tuple[int, Array]] = []
    bands = rng.choice(len(SIZES), size=int(rng.integers(4, 8)), p=(0.4, 0.4, 0.2))
    for band in sorted(bands, reverse=True):  # the large ones lie below
        size = int(rng.integers(*SIZES[band], endpoint=True))
        label = int(rng.integers(len(CLASSES)))
        paint, coverage = _sprite(rng, CLASSES[label], size)
        left = int(rng.integers(-size // 4, width - 3 * size // 4))
        top = int(rng.integers(-size // 4, height - 3 * size // 4))
        covered = np.zeros((height, width), np.float32)
        _blend(covered, np.ones_like(coverage), coverage, left, top)
        mask = covered > 0.5
        if any(((owner == other) & ~mask).sum() < 0.6 * below.sum() for other, (_, below) in enumerate(placed)):
            continue  # it would hide an object below it
        _blend(
            image, np.zeros_like(paint), 0.35 * cv2.blur(coverage, (5, 5)), left + size // 12 + 1, top + size // 12 + 1
        )
        _blend(image, paint, coverage, left, top)
        owner[mask] = len(placed)
        placed.append((label, mask))
    blades = np.zeros((height, width), np.uint8)
    _grass(rng, image, blades=int(rng.integers(0, 6)), drawn=blades)
    owner[blades > 0] = -1
    objects = []
    for number, (label, mask) in enumerate(placed):
        if (owner == number).sum() >= MIN_VISIBLE * mask.sum() > 0:
            left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
            objects.append((label, left, top, left + w, top + h))
    noise = rng.normal(0, rng.uniform(2, 9), image.shape)
    return np.clip(image * rng.uniform(0.8, 1.1) + noise, 0, 255).astype(np.uint8), objects


def _background(rng: Rng, height: int, width: int) -> Array:
    """Return a ground of two dull colours, mixed by noise of several scales, at times in planks, under uneven light."""
    mix = np.zeros((height, width), np.float32)
    for cells in (3, 7, 18, 60):
        noise = rng.random((cells, cells), dtype=np.float32)
        mix += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / np.float32(cells**0.6)
    mix = (mix - mix.min()) / (mix.max() - mix.min())
    if rng.random() < 0.3:
        gaps = np.arange(height) % int(rng.integers(18, 40)) < 2
        mix[gaps] *= 0.3
    dark = hsv_to_bgr(rng, hue=(0, 180), saturation=(10, 70), value=(50, 120))
    light = hsv_to_bgr(rng, hue=(0, 180), saturation=(10, 60), value=(120, 200))
    ground = mix[..., None] * light + (1 - mix[..., None]) * dark
    left, right = rng.uniform(0.8, 1.15, 2)
    slope = np.linspace(left, right, width)[None, :, None]
    return np.asarray(ground * slope, np.float32)


def _grass(rng: Rng, image: Array, blades: int, drawn: Array | None = None) -> None:
    """Draw curved blades from the lower border upwards; ``drawn`` gets their pixels."""
    height, width = image.shape[:2]
    for _ in range(blades):
        foot, lean, length = rng.uniform(0, width), rng.uniform(-40, 40), rng.uniform(0.25, 0.9) * height
        along = np.linspace(0, 1, 12)
        curve = np.stack([foot + lean * along**2, height - length * along], axis=1)
        points = np.round(curve * 16).astype(np.int32)  # fixed point, 4 binary digits
        colour = hsv_to_bgr(rng, hue=(25, 75), saturation=(60, 150), value=(60, 150)).tolist()
        thickness = int(rng.integers(1, 4))
        cv2.polylines(image, [points], False, colour, thickness, cv2.LINE_AA, 4)
        if drawn is not None:
            cv2.polylines(drawn, [points], False, 255, thickness, cv2.LINE_8, 4)


def _pebbles(rng: Rng, image: Array, count: int) -> None:
    """Draw grey stones, which are not labelled."""
    height, width = image.shape[:2]
    for _ in range(count):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(a) for a in rng.integers(2, 7, 2))
        grey = float(rng.uniform(60, 170))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, (grey, grey, grey), -1, cv2.LINE_AA)
        lit = (centre[0] - 1, centre[1] - 1)
        cv2.ellipse(image, lit, (axes[0] // 2, axes[1] // 2), 0, 0, 360, (grey * 1.25,) * 3, -1, cv2.LINE_AA)


def _sprite(rng: Rng, name: str, size: int) -> tuple[Array, Array]:
    """Return one object: paint, float BGR ``(size, size, 3)``, and its coverage from 0 to 1, ``(size, size)``."""
    steps = np.linspace(-1, 1, size * OVERSAMPLING, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    paint, mask = PAINTERS[name](rng, x, y)
    coverage = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return cv2.resize(paint.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA), coverage


def _turned(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _lit(nx: Array, ny: Array, nz: Array) -> Array:
    """Return the brightness of a surface by its normal; the light comes from the upper left."""
    diffuse = np.clip(-0.5 * nx - 0.6 * ny + 0.62 * nz, 0, 1)
    return np.asarray(0.45 + 0.65 * diffuse + 0.8 * diffuse**24)


def _ball(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    hue = int(rng.integers(180))
    one = hsv_to_bgr(rng, hue=(hue, hue + 1), saturation=(150, 240), value=(150, 240))
    other = hsv_to_bgr(rng, hue=(0, 180), saturation=(0, 60), value=(190, 250))
    u, v = _turned(rng, x, y)
    sectors = np.floor(np.arctan2(v, u + 0.3) * 3 / np.pi) % 2 == 0
    r2 = x**2 + y**2
    light = _lit(x, y, np.sqrt(np.clip(1 - r2, 0, 1)))
    return np.where(sectors[..., None], one, other) * light[..., None], r2 <= 0.97


def _cube(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    u, v = _turned(rng, x, y)
    sector = np.floor((np.arctan2(v, u) + np.pi) * 3 / (2 * np.pi)).astype(int) % 3
    brightness = rng.permutation([1.15, 0.85, 0.55])[sector]
    # Seen along its diagonal a cube is a hexagon, and its three faces meet in the middle.
    reach = np.max([np.abs(u * np.cos(a) + v * np.sin(a)) for a in np.pi / 6 + np.arange(3) * np.pi / 3], axis=0)
    face_edge = np.min(
        [
            np.abs(u * np.sin(a) - v * np.cos(a)) + 9 * (u * np.cos(a) + v * np.sin(a) < 0)
            for a in np.pi + np.arange(3) * 2 * np.pi / 3
        ],
        axis=0,
    )
    brightness = np.where((face_edge < 0.05) | (reach > 0.78), brightness * 0.6, brightness)
    colour = hsv_to_bgr(rng, hue=(85, 150), saturation=(90, 200), value=(140, 220))
    return colour * brightness[..., None], reach <= 0.85


def _leaf(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    u, v = _turned(rng, x, y)
    half_width = rng.uniform(0.38, 0.5) * np.clip(1 - u**2, 0, 1) ** 0.8 * (1 - 0.25 * u)
    veins = np.abs((u * 5 + np.abs(v) * 4) % 1 - 0.5) < 0.08
    colour = hsv_to_bgr(rng, hue=(5, 75), saturation=(120, 230), value=(120, 210))
    tone = 0.85 + 0.3 * (v > 0) - 0.3 * veins - 0.4 * (np.abs(v) < 0.04)
    return colour * tone[..., None], np.abs(v) <= half_width


def _ring(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    u, v = _turned(rng, x, y)
    v = v / rng.uniform(0.65, 1)  # tilted
    r = np.hypot(u, v)
    middle, half = 0.76, 0.2
    across = np.clip((r - middle) / half, -1, 1)
    light = _lit(across * x / (r + 1e-6), across * y / (r + 1e-6), np.sqrt(1 - across**2))
    colour = hsv_to_bgr(rng, hue=(12, 32), saturation=(20, 190), value=(150, 235))
    return colour * light[..., None], np.abs(r - middle) <= half


def _star(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    u, v = _turned(rng, x, y)
    turn = np.arctan2(v, u) % (2 * np.pi / 5) - np.pi / 5  # within one point, 0 along its notch
    inner = rng.uniform(0.42, 0.52)
    # The edge from the tip (radius 1, at pi/5) to the notch (radius inner, at 0), as distance along each direction.
    tip = np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([tip[1], inner - tip[0]])
    edge = inner * normal[0] / (np.cos(turn) * normal[0] + np.abs(np.sin(turn)) * normal[1])
    facet = np.where(turn > 0, 1.1, 0.75)
    colour = hsv_to_bgr(rng, hue=(0, 30), saturation=(170, 250), value=(190, 250))
    return colour * facet[..., None], np.hypot(u, v) <= 0.98 * edge


PAINTERS: dict[str, Callable[[Rng, Array, Array], tuple[Array, Array]]] = {
    "ball": _ball,
    "cube": _cube,
    "leaf": _leaf,
    "ring": _ring,
    "star": _star,
}


def _blend(image: Array, patch: Array, coverage: Array, left: int, top: int) -> None:
    """Draw a patch over the image in place, with its upper left corner at (left, top), as far as it lies inside."""
    height, width = image.shape[:2]
    rows, columns = (
        slice(max(top, 0), min(top + len(patch), height)),
        slice(max(left, 0), min(left + len(patch[0]), width)),
    )
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    weight = coverage[inner]
    weight = weight[..., None] if image.ndim == 3 else weight
    image[rows, columns] = patch[inner] * weight + image[rows, columns] * (1 - weight)
