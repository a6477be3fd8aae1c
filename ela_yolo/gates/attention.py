"""Runs a model on images for pictures of its gates, and on a data set for the statistics of its gates."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor, nn
from ultralytics.utils import TQDM

from ela_yolo.ela import ELA
from ela_yolo.errors import InputError
from ela_yolo.gates.capture import capture_gates
from ela_yolo.gates.focus import DRAWS, FocusMeter, Objects
from ela_yolo.gates.health import GateReport, HealthMeter
from ela_yolo.gates.page import PAGE, Page, detected
from ela_yolo.gates.picture import bgr, plot_attention
from ela_yolo.gates.placement import Array, Part, covered
from ela_yolo.host.heat_map import HeatMaps
from ela_yolo.host.lookup import check_model, data_images, find_model, open_model
from ela_yolo.host.objects import labelled_objects
from ela_yolo.host.patches import require_registered
from ela_yolo.util.files import written_whole

SMALL = 320  # px; thin lines are drawn in images below it


def attention(
    model: str | Path,
    source: str | Path | list[Path],
    save: str | Path | None = None,
    imgsz: int | None = None,
    stretch: bool = False,
    classes: str | None = None,
    beside: str | Path | None = None,
    report: GateReport | None = None,
) -> list[Path]:
    """Draw what a model's ELA blocks do to images, a picture for each image, and return the files.

    :func:`plot_attention` describes the pictures. A picture has the name of its image. The frames of a video are
    numbered, and so are images of the same name. Beside them lies ``index.html``, a page of one file that shows the
    first 60 images in a browser. Pictures of an earlier run are replaced.

    Args:
        model: A checkpoint (.pt) or a model YAML with ELA, found as Ultralytics finds it.
        source: A source as in ``YOLO.predict``: an image, a list of images, a folder, a pattern, a text file with
            images, a video.
        save: The folder of the pictures; None means ``MODEL-attention`` in the current folder.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
        stretch: Whether colours span the values of each picture, not 1/2 to 2 in all pictures.
        classes: Names or numbers of classes, separated by commas: Ultralytics' heat map of these is drawn too.
        beside: Another model, such as the one without ELA, whose heat map is drawn beside this model's.
        report: What :func:`gate_health` returned, for the page.

    Raises:
        InputError: If the model has no ELA, ``save`` is a file, no image can be read, the images have more or fewer
            channels than the model takes, the model has no such class, or this Ultralytics has no heat map.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Example:
        >>> attention("best.pt", "images/")  # doctest: +SKIP
        [PosixPath('best-attention/bus.png'), PosixPath('best-attention/zidane.png')]
    """
    folder = attention_folder(model, save)
    files: list[Path] = []
    page = Page()
    taken: set[str] = set()
    frames: Counter[str] = Counter()
    with _prediction(model, source, imgsz) as run, capture_gates(run.predictor.model) as gates:
        compared = {"heat map": model} if classes is not None or beside else {}
        if beside:
            compared[f"heat map of {Path(beside).stem}"] = beside
        heat_maps = {title: HeatMaps(each, classes) for title, each in compared.items()}
        for result in run.results:
            folder.mkdir(parents=True, exist_ok=True)
            name = Path(result.path).stem
            if run.predictor.dataset.mode != "image":
                frames[result.path] += 1
                name = f"{name}-{frames[result.path]:05d}"
            files.append(folder / f"{_unique(name, taken)}.png")
            parts, image = run.parts(result), bgr(result.orig_img)
            thin = 1 if max(result.orig_shape) < SMALL else None  # or the labels would hide a small image
            drawn = {title: _cut(maps.draw(result.orig_img, imgsz), image, run) for title, maps in heat_maps.items()}
            figure, _ = plot_attention(image, gates, result.plot(line_width=thin), parts, stretch, drawn)
            with written_whole(files[-1]) as part:
                figure.savefig(part, format="png", dpi=100)
            page.add(files[-1].stem, image, gates, detected(result), parts, drawn)
    if not files:
        raise InputError(f"source={source} has no image that can be read; name others")
    page.write(folder / PAGE, report.table() if report else None)
    return files


def attention_folder(model: str | Path, save: str | Path | None) -> Path:
    """Return the folder of the pictures.

    Raises:
        InputError: If it is a file.
    """
    folder = Path(f"{Path(model).stem}-attention" if save is None else save)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"save={folder} is a file; name a folder for the pictures")
    return folder


def _cut(drawn: Array, image: Array, run: _Run) -> Array:
    """Return the part of a picture of the network's input that shows the image, in the size of the image."""
    (top, tall), (left, wide) = (
        (part.start * pixels, part.length * pixels)
        for part, pixels in zip(covered(image.shape[:2], drawn.shape[:2], run.fit), drawn.shape[:2], strict=True)
    )
    corners = np.array([[left, top], [left + wide, top], [left, top + tall]], np.float32)
    height, width = image.shape[:2]
    to = np.array([[0, 0], [width, 0], [0, height]], np.float32)
    cut: Array = cv2.warpAffine(drawn, cv2.getAffineTransform(corners, to), (width, height))
    return cut


def _unique(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.lower() in taken:  # one file to some file systems
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free


def gate_health(model: str | Path, data: str, split: str = "val", imgsz: int | None = None) -> GateReport:
    """Return statistics of a model's gates over the images of a data set, with a verdict for each ELA block.

    Where the labels are boxes or masks, each block has a :class:`~ela_yolo.gates.focus.Focus`: whether it favours
    objects, beside random gates.

    Args:
        model: A checkpoint (.pt) or a model YAML with ELA, found as Ultralytics finds it.
        data: A data set's YAML, or for classification a folder, found as Ultralytics finds it.
        split: The split of the data set: ``train``, ``val`` or ``test``.
        imgsz: The side of the network's input, in px; None means the size of the model's training.

    Raises:
        InputError: If the model has no ELA, the split has no images, or the images have more or fewer channels than the
            model takes.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Example:
        >>> print(gate_health("best.pt", data="scenes.yaml"))  # doctest: +SKIP
        | layer | block | gate mean | spread | saturated | scale | focus (95%) | random gates | verdict |
        |---|---|---|---|---|---|---|---|---|
        ...
    """
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "images.txt"
        with _prediction(model, listed, imgsz) as run, HealthMeter(run.predictor.model) as meter:
            task = run.predictor.args.task
            images = data_images(data, split, task)
            objects = labelled_objects(data, split, task)
            listed.write_text("\n".join(map(str, images)), encoding="utf-8")
            with FocusMeter(run.predictor.model, DRAWS if objects else 0) as focus:
                for result in run.results:
                    outlines = objects.get(Path(result.path).absolute())
                    if outlines:
                        of_image = Objects(outlines, result.orig_shape)
                        focus.update([of_image], [run.parts(result)], run.latest.size)
    found = focus.result()
    return GateReport(tuple(replace(each, focus=found.get(each.layer)) for each in meter.result()), meter.images)


class _Latest:
    """A hook that stores the size of a network's latest input, and raises an error if its channels do not fit."""

    def __init__(self, model: str | Path, channels: int) -> None:
        self._model = model
        self._channels = channels
        self.size = (0, 0)  # px

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _, channels, *size = inputs[0].shape
        if channels != self._channels:
            raise InputError(
                f"model={self._model} takes images with channels: {self._channels}, and Ultralytics reads these with "
                f"{channels}; name images that have {self._channels}"
            )
        self.size = (size[0], size[1])


@dataclass(frozen=True)
class _Run:
    """A prediction that goes on.

    Attributes:
        predictor: The predictor of Ultralytics.
        results: An iterator that computes the results.
        latest: The size of the latest input of the network.
        fit: How Ultralytics fits the images into the input.
    """

    predictor: Any
    results: Iterator[Any]
    latest: _Latest
    fit: str

    def parts(self, result: Any) -> tuple[Part, Part]:
        """Return the parts of the network's input that the image of the latest result covers."""
        return covered(result.orig_shape, self.latest.size, self.fit)


@contextmanager
def _prediction(model: str | Path, source: str | Path | list[Path], imgsz: int | None) -> Iterator[_Run]:
    require_registered()
    check_model(str(model))
    opened = open_model(find_model(model))
    module: nn.Module = opened.model
    if not any(isinstance(each, ELA) for each in module.modules()):
        raise InputError(f"model={model} has no ELA; put it in first: ela-yolo insert model={model}")
    size = {} if imgsz is None else {"imgsz": imgsz}
    named = [*map(str, source)] if isinstance(source, list) else str(source)
    results = opened.predict(named, stream=True, batch=1, save=False, verbose=False, **size)
    predictor = opened.predictor
    predictor.done_warmup = True  # on a GPU the warm-up is one more forward, which would count as an image
    latest = _Latest(model, opened.model.yaml.get("channels", 3))
    predictor.model.register_forward_pre_hook(latest)
    # Older releases of Ultralytics have no such attribute, and RT-DETR alone stretches its images.
    stretched = getattr(predictor, "scale_fill", type(predictor).__name__ == "RTDETRPredictor")
    fit = "stretch" if stretched else "crop" if predictor.args.task == "classify" else "letterbox"
    try:
        yield _Run(predictor, _with_progress(results, predictor), latest, fit)
    finally:
        results.close()


def _with_progress(results: Iterator[Any], predictor: Any) -> Iterator[Any]:
    first = next(results, None)
    if first is None:
        return
    with TQDM(total=len(predictor.dataset), desc="images") as bar:
        yield first
        bar.update()
        for result in results:
            yield result
            bar.update()
