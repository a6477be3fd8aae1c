"""The images on which a file and its model are compared: real ones, as the network gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import ASSETS

from ela_yolo.errors import ExportError
from ela_yolo.host.lookup import data_images

Array = np.ndarray[Any, Any]

OF_A_DATA_SET = 16  # validation images of a data set that a comparison takes
WHOLE, UPPER_LEFT, LOWER_RIGHT = "", ", upper left", ", lower right"


def find_images(source: str) -> list[Path]:
    """Return the images of a folder, or the images that a pattern such as ``images/*.jpg`` matches, sorted.

    Raises:
        ExportError: If there are fewer than two: a comparison needs two different images.
    """
    files = Path(source).iterdir() if Path(source).is_dir() else map(Path, glob(source, recursive=True))
    images = sorted(file for file in files if file.suffix[1:].lower() in IMG_FORMATS)
    if len(images) < 2:
        raise ExportError(
            f"source={source} names {len(images)} images; name at least two different ones to compare with"
        )
    return images


def spread_evenly(images: Sequence[Path], count: int) -> list[Path]:
    """Return ``count`` of the images at even distances from the first to the last, or all if there are fewer."""
    if len(images) <= count:
        return list(images)
    return [images[place * (len(images) - 1) // (count - 1)] for place in range(count)]


def find_validation_images(data: str, task: str) -> list[Path]:
    """Return up to 16 validation images of a data set, spread evenly over all of them.

    Raises:
        InputError: If the data set cannot be read, or has no validation images.
        ExportError: If it has only one.
    """
    images = data_images(data, "val", task)
    if len(images) < 2:
        raise ExportError(f"data={data} has {len(images)} validation image; name images with source=")
    return spread_evenly(images, OF_A_DATA_SET)


class Images(Mapping[str, Array]):
    """Images by their names, uint8 ``(H, W, channels)`` in BGR; each is read from disk when it is looked up.

    Args:
        files: Name -> file and part: the whole image, its upper left or its lower right quarter.
        channels: 3, or 1 for grey.
    """

    def __init__(self, files: Mapping[str, tuple[Path, str]], channels: int = 3) -> None:
        self._files = dict(files)
        self.channels = channels

    @classmethod
    def of_files(cls, files: Iterable[str | Path], channels: int = 3) -> Images:
        """Return the images of these files.

        Raises:
            ExportError: If a file is not an image that OpenCV can read, or there are fewer than two.
        """
        found = {str(file): (Path(file), WHOLE) for file in files}
        for file, _ in found.values():
            if not cv2.haveImageReader(str(file)):
                raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
        if len(found) < 2:
            raise ExportError("a comparison needs at least two different images; name more with source=")
        return cls(found, channels)

    def __getitem__(self, name: str) -> Array:
        file, part = self._files[name]
        picture: Array | None = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE if self.channels == 1 else cv2.IMREAD_COLOR)
        if picture is None:
            raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
        height, width = picture.shape[:2]
        if part == UPPER_LEFT:
            picture = picture[: height // 2, : width // 2]
        elif part == LOWER_RIGHT:
            picture = picture[height // 2 :, width // 2 :]
        return picture.reshape(*picture.shape[:2], self.channels)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def packaged_photographs(channels: int = 3) -> Images:
    """Return the two photographs of Ultralytics' package, and two different quarters of each."""
    files = sorted(Path(ASSETS).glob("*.jpg"))
    return Images(
        {f"{file}{part}": (file, part) for file in files for part in (WHOLE, UPPER_LEFT, LOWER_RIGHT)}, channels
    )


def network_input(picture: Array, imgsz: tuple[int, int]) -> Tensor:
    """Return an image as the network gets it: letterboxed, RGB or grey, values from 0 to 1.

    Args:
        picture: The image, uint8 BGR ``(h, w, channels)``.
        imgsz: Height and width of the network's input, in px.

    Shape:
        - Output: ``(1, channels, H, W)``
    """
    boxed: Any = LetterBox(imgsz)(image=picture)
    boxed = boxed.reshape(*boxed.shape[:2], -1)  # OpenCV drops the axis of a single channel
    return torch.from_numpy(boxed[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def batches(pictures: Images, batch: int, imgsz: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the images as batches, ``(batch, channels, H, W)``. The last batch is filled up with the first images.

    A batch holds different images, so that a file that mixes them up is found out.
    """
    names = list(pictures)
    for start in range(0, len(names), batch):
        chosen = [names[place % len(names)] for place in range(start, start + batch)]
        yield torch.cat([network_input(pictures[name], imgsz) for name in chosen])
