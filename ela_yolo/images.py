"""The images that a proof is made with: real ones, as the network gets them."""

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
from ela_yolo.inputs import data_images

Array = np.ndarray[Any, Any]

OF_A_DATA_SET = 16  # as many of its validation images go through a proof


def find_images(source: str) -> list[Path]:
    """Return the images of a folder, or those that a pattern such as ``images/*.jpg`` names.

    Raises:
        ExportError: If there are fewer than two, which is too few for a proof.
    """
    files = Path(source).iterdir() if Path(source).is_dir() else map(Path, glob(source, recursive=True))
    images = sorted(file for file in files if file.suffix[1:].lower() in IMG_FORMATS)
    if len(images) < 2:
        raise ExportError(f"source={source} names {len(images)} images, and a proof needs at least two different ones")
    return images


def spread_evenly(images: Sequence[Path], count: int) -> list[Path]:
    """Return ``count`` of the images, or all if there are fewer, at even distances from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[place * (len(images) - 1) // (count - 1)] for place in range(count)]


def find_validation_images(data: str, task: str) -> list[Path]:
    """Return some validation images of a data set for a task, spread evenly over all of them.

    Raises:
        InputError: If the data set cannot be read, or has no validation images.
        ExportError: If it has only one.
    """
    images = data_images(data, "val", task)
    if len(images) < 2:
        raise ExportError(f"data={data} has {len(images)} validation image; name images with source=")
    return spread_evenly(images, OF_A_DATA_SET)


def read_images(files: Iterable[str | Path]) -> dict[str, Array]:
    """Return the images, BGR, by their names.

    Raises:
        ExportError: If one cannot be read, or if there are fewer than two.
    """
    pictures: dict[str, Array] = {}
    for file in files:
        picture = cv2.imread(str(file))
        if picture is None:
            raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
        pictures[str(file)] = picture
    if len(pictures) < 2:
        raise ExportError("a proof needs at least two different images")
    return pictures


def host_photographs() -> dict[str, Array]:
    """Return the two photographs of the host's package and two different parts of each: name -> BGR image."""
    pictures = {}
    for name, picture in read_images(sorted(Path(ASSETS).glob("*.jpg"))).items():
        height, width = picture.shape[:2]
        pictures[name] = picture
        pictures[f"{name}, upper left"] = picture[: height // 2, : width // 2]
        pictures[f"{name}, lower right"] = picture[height // 2 :, width // 2 :]
    return pictures


def network_input(picture: Array, imgsz: tuple[int, int]) -> Tensor:
    """Return an image as the network gets it: letterboxed, RGB, 0 to 1, (1, 3, H, W)."""
    boxed: Any = LetterBox(imgsz)(image=picture)  # (H, W, 3) BGR
    return torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1])).permute(2, 0, 1)[None].float() / 255


def batches(pictures: Mapping[str, Array], batch: int, imgsz: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the images as (batch, 3, H, W), different ones in a batch, so that a mix-up within it shows.

    The last batch is filled up from the front.
    """
    names = list(pictures)
    for start in range(0, len(names), batch):
        chosen = [names[place % len(names)] for place in range(start, start + batch)]
        yield torch.cat([network_input(pictures[name], imgsz) for name in chosen])
