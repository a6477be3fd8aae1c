"""The images on which a file and its model are compared, as the network gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path

import cv2
import torch
from torch import Tensor

from ela_yolo.errors import ExportError
from ela_yolo.host.calls import Array, image_files, letterbox, photographs
from ela_yolo.host.lookup import data_images

Source = str | Path | Iterable[str | Path]

OF_A_DATA_SET = 16  # validation images of a data set that a comparison takes


def choose_images(source: Source | None, data: str | None, task: str) -> list[Path]:
    """Return the images to compare with: those of ``source``, else some of the data set, else two photographs.

    Args:
        source: A folder, a pattern such as ``images/*.jpg``, image files, or None.
        data: A data set's YAML, or None.
        task: The task of the model.
    """
    if source is None:
        files = photographs() if data is None else spread_evenly(data_images(data, "val", task), OF_A_DATA_SET)
    elif isinstance(source, str | Path):
        found = Path(source).iterdir() if Path(source).is_dir() else map(Path, glob(str(source), recursive=True))
        files = image_files([*found])
    else:
        files = list(dict.fromkeys(map(Path, source)))
    for file in files:
        if not cv2.haveImageReader(str(file)):
            raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
    if len(files) < 2:
        given = f"data={data}" if source is None else f"source={source}"
        raise ExportError(f"{given} names {len(files)} images; name at least two different ones with source=")
    return files


def spread_evenly(images: Sequence[Path], count: int) -> list[Path]:
    """Return ``count`` of the images at even distances from the first to the last, or all if there are fewer."""
    if len(images) <= count:
        return list(images)
    return [images[place * (len(images) - 1) // (count - 1)] for place in range(count)]


def read_image(file: Path, channels: int) -> Array:
    """Return an image, uint8 ``(h, w, channels)``, in BGR or, with one channel, in grey."""
    picture: Array | None = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    if picture is None:
        raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
    return picture.reshape(*picture.shape[:2], channels)


def network_input(picture: Array, imgsz: tuple[int, int]) -> Tensor:
    """Return an image as the network gets it: letterboxed, RGB or grey, values from 0 to 1.

    Shape:
        - Output: ``(1, channels, H, W)``
    """
    boxed = letterbox(picture, imgsz)
    return torch.from_numpy(boxed[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def batches(
    files: Sequence[Path], channels: int, batch: int, imgsz: tuple[int, int]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield the images as batches: their files, and the input ``(batch, channels, H, W)``.

    The last batch is filled up with the first images. A batch holds different images, so that a file that mixes them up
    is found out.
    """
    for start in range(0, len(files), batch):
        chosen = [files[place % len(files)] for place in range(start, start + batch)]
        yield chosen, torch.cat([network_input(read_image(file, channels), imgsz) for file in chosen])
