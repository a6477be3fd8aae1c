"""Runs a model on images, and draws what each detection gets through attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ela_yolo.errors import InputError
from ela_yolo.gates.attribution import trace
from ela_yolo.gates.attribution_picture import Detection, bgr, plot_attention
from ela_yolo.gates.capture import Gates, capture_gates
from ela_yolo.gates.geometry import Part, covered
from ela_yolo.gates.page import PAGE, Page, is_page
from ela_yolo.host.blocks import describe
from ela_yolo.host.calls import Array
from ela_yolo.host.detector import Detector
from ela_yolo.host.lookup import open_model
from ela_yolo.host.model_blocks import all_blocks, ela_blocks
from ela_yolo.host.patches import require_registered
from ela_yolo.host.prediction import detected, predicting
from ela_yolo.util.files import atomic_write
from ela_yolo.util.text import command_line, one_line

MAX_DET = 6


def attention(
    model: str | Path,
    source: Any,
    save: str | Path | None = None,
    imgsz: int | None = None,
    max_det: int = MAX_DET,
) -> list[Path]:
    """Draw which regions support each detection through attention, one picture per image.

    ``plot_attention`` describes the pictures. Each picture is named after its image. Frames of a video and images of
    the same name are numbered. The folder also gets ``index.html``, a single file that shows the first 60 images in a
    browser. Pictures of an earlier run in ``save`` are replaced, other files never.

    Args:
        model: A checkpoint (.pt) or a model YAML with ELA, found as Ultralytics finds it.
        source: A source as in ``YOLO.predict``: an image, a list of images, a folder, a pattern, a text file with
            images, a video.
        save: The folder of the pictures; None means ``MODEL-attention`` in the current folder, or ``MODEL-attention-2``
            and so on if it exists.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
        max_det: The number of detections to show for each image, those with the highest scores.

    Returns:
        The files of the pictures.

    Raises:
        InputError: If the model has no ELA or another head than those of detect, segment, pose, OBB and classify,
            ``save`` is a file or has other files of these names, no image can be read, or the images have more or fewer
            channels than the model takes.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> attention("best.pt", "images/")  # doctest: +SKIP
        [PosixPath('best-attention/bus.png'), PosixPath('best-attention/zidane.png')]
    """
    folder = attention_folder(model, save)
    require_registered()
    opened = open_model(model)
    if not ela_blocks(opened):
        others = {describe(block) for block in all_blocks(opened).values()}
        remedy = f"insert it first: {command_line('ela-yolo', 'insert', f'model={model}')}"
        if others:
            remedy = f"{', '.join(sorted(others))} cannot be traced; ela-yolo ablate measures what it contributes"
        raise InputError(f"model={model} has no ELA; {remedy}")
    files: list[Path] = []
    page = Page()
    taken: set[str] = set()
    frames: Counter[str] = Counter()
    replaces = is_page(folder / PAGE)
    if not replaces:
        _refuse_existing(folder / PAGE)
    try:
        for traced in traced_images(opened, source, imgsz, max_det):
            if not files:
                _make(folder)
            name = traced.path.stem
            if traced.is_frame:
                frames[str(traced.path)] += 1
                name = f"{name}-{frames[str(traced.path)]:05d}"
            file = folder / f"{_unique(name, taken)}.png"
            if not replaces:
                _refuse_existing(file)
            figure, _ = plot_attention(traced.image, traced.detections, traced.parts)
            with atomic_write(file) as part:
                figure.savefig(part, format="png", dpi=100)
            files.append(file)
            page.add(files[-1].stem, traced.image, traced.gates, traced.detections, traced.parts)
    except FileNotFoundError as error:  # of Ultralytics
        raise InputError(f"{one_line(error)}; name images with source=") from None
    finally:
        if files:  # also of a run that is interrupted
            page.write(folder / PAGE)
    if not files:
        raise InputError(f"source={source} has no readable image; choose others")
    return files


def _refuse_existing(file: Path) -> None:
    if file.exists():
        raise InputError(f"{file} exists and is not of an earlier run; name another folder with save=")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created: {error.strerror}; choose another folder with save=") from None


def attention_folder(model: str | Path, save: str | Path | None) -> Path:
    """Return the folder of the pictures: that of ``save``, or a new one."""
    if save is None:
        return next(Path(name) for name in _numbered(f"{Path(model).stem}-attention") if not Path(name).exists())
    folder = Path(save)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"save={folder} is a file; name a folder for the pictures")
    return folder


def _unique(name: str, taken: set[str]) -> str:
    free = next(each for each in _numbered(name) if each.lower() not in taken)  # one file to some file systems
    taken.add(free.lower())
    return free


def _numbered(name: str) -> Iterator[str]:
    """Give a name, then ``NAME-2``, ``NAME-3`` and so on."""
    return chain([name], (f"{name}-{number}" for number in count(2)))


class TracedImage(NamedTuple):
    """An image with its detections.

    Attributes:
        path: The file, also of a video's frame.
        is_frame: Whether it is a video's frame.
        image: The image, BGR of 8 bits, ``(H, W, 3)``.
        parts: The parts of the network's input that the image covers, along height and width.
        gates: Layer -> gates.
        detections: The detections, the highest score first; the first ones have traces.
    """

    path: Path
    is_frame: bool
    image: Array
    parts: tuple[Part, Part]
    gates: dict[str, Gates]
    detections: list[Detection]


def traced_images(model: Any, source: Any, imgsz: int | None, max_det: int) -> Iterator[TracedImage]:
    """Yield the images of a source with their detections, of which the ``max_det`` strongest are traced."""
    with predicting(model, source, imgsz) as prediction:
        detector = Detector(prediction.network)
        blocks = ela_blocks(prediction.network)
        for result in prediction:
            given = prediction.take_input()
            parts = covered(result.orig_shape, (given.shape[2], given.shape[3]), prediction.fit)
            (top, tall), (left, wide) = ((part.start, part.length) for part in parts)
            found = detected(result)
            targets = []
            for label, score, outline in found[:max_det]:
                x, y = (0.5, 0.5) if outline is None else (outline.min(0) + outline.max(0)) / 2
                targets.append((label, score, left + wide * float(x), top + tall * float(y)))
            with capture_gates(prediction.network) as gates, torch.inference_mode():
                prediction.network(given)
            traces = trace(detector, blocks, given, targets) + [{}] * len(found[max_det:])
            detections = [
                Detection(result.names[label], score, outline, each)
                for (label, score, outline), each in zip(found, traces, strict=True)
            ]
            yield TracedImage(
                prediction.file_of(result), prediction.is_video, bgr(result.orig_img), parts, gates, detections
            )
