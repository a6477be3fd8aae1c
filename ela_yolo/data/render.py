"""What rendered data sets share: they are written whole, with YOLO labels, and each image has a seed of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import cv2
import numpy as np

from ela_yolo.errors import DatasetError

Array: TypeAlias = np.ndarray[Any, Any]
Rng: TypeAlias = np.random.Generator
Object: TypeAlias = tuple[int, int, int, int, int]  # class, left, top, right, bottom, in px


def write_data_set(
    folder: Path, splits: Mapping[str, int], draw: Callable[[Rng], tuple[Array, list[Object]]], seed: int
) -> Path:
    """Write a rendered data set into a new folder; a folder that holds the finished data set is left as it is.

    The folder gets its name when everything is written. An interrupted rendering leaves a hidden folder beside it,
    which may be deleted. An image depends only on the seed, its split and its number.

    Args:
        folder: The folder for ``images/`` and ``labels/``, each with a folder for each split.
        splits: Split -> number of images.
        draw: Returns an image, BGR uint8 ``(H, W, 3)``, and its objects.
        seed: The seed of the data set.

    Returns:
        The folder.
    """

    def is_finished(folder: Path) -> bool:
        # A folder gets its name only when it is complete, but a user may have deleted files since.
        return all(
            (folder / kind / split / f"{index:04}{suffix}").is_file()
            for kind, suffix in (("images", ".jpg"), ("labels", ".txt"))
            for split, count in splits.items()
            for index in range(count)
        )

    if is_finished(folder):
        return folder
    with _atomic_data_set(folder, is_finished) as part:
        for number, (split, count) in enumerate(splits.items()):
            for kind in ("images", "labels"):
                (part / kind / split).mkdir(parents=True)
            for index in range(count):
                image, objects = draw(np.random.default_rng((seed, number, index)))
                _write(part, split, index, image, objects)
    return folder


@contextmanager
def _atomic_data_set(folder: Path, is_finished: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to write to; it becomes ``folder`` if the ``with`` block succeeds."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and is not a finished data set; move or delete it, and run this again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-unfinished-{uuid4().hex[:8]}")
        part.mkdir()
    except OSError as error:
        raise DatasetError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    try:
        yield part
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(part, folder)
    except OSError as error:
        if not is_finished(folder):  # or another process was faster
            raise DatasetError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(root: Path, split: str, index: int, image: Array, objects: list[Object]) -> None:
    height, width = image.shape[:2]
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    (root / "images" / split / f"{index:04}.jpg").write_bytes(encoded.tobytes())
    lines = (
        f"{label} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
        f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}\n"
        for label, left, top, right, bottom in objects
    )
    (root / "labels" / split / f"{index:04}.txt").write_text("".join(lines), encoding="utf-8")


def hsv_to_bgr(rng: Rng, hue: tuple[int, int], saturation: tuple[int, int], value: tuple[int, int]) -> Array:
    """Return a random BGR colour; OpenCV's hue goes from 0 to 180."""
    hsv = [int(rng.integers(*band)) for band in (hue, saturation, value)]
    bgr = cv2.cvtColor(np.array([[[hsv[0] % 180, *hsv[1:]]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return np.asarray(bgr, np.float32)
