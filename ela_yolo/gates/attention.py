"""Runs a model on images, and draws what each detection gets through attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import TQDM

from ela_yolo.errors import InputError
from ela_yolo.gates.attribution import trace
from ela_yolo.gates.capture import capture_gates
from ela_yolo.gates.page import PAGE, Page
from ela_yolo.gates.picture import Detection, bgr, plot_attention
from ela_yolo.gates.placement import Array, Part, covered
from ela_yolo.host.detector import Detector
from ela_yolo.host.lookup import check_model, find_model, open_model
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.host.patches import require_registered
from ela_yolo.host.versions import network_of
from ela_yolo.util.files import atomic_write

MAX_DET = 6


def attention(
    model: str | Path,
    source: Any,
    save: str | Path | None = None,
    imgsz: int | None = None,
    max_det: int = MAX_DET,
) -> list[Path]:
    """Draw what the detections of images get through attention, a picture for each image, and return the files.

    :func:`plot_attention` describes the pictures. A picture has the name of its image. The frames of a video are
    numbered, and so are images of the same name. Beside them lies ``index.html``, a page of one file that shows the
    first 60 images in a browser. Pictures of an earlier run are replaced.

    Args:
        model: A checkpoint (.pt) or a model YAML with ELA, found as Ultralytics finds it.
        source: A source as in ``YOLO.predict``: an image, a list of images, a folder, a pattern, a text file with
            images, a video.
        save: The folder of the pictures; None means ``MODEL-attention`` in the current folder.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
        max_det: The number of detections to show for each image, those with the highest scores.

    Raises:
        InputError: If the model has no ELA or another head than those of detect, segment, pose, OBB and classify,
            ``save`` is a file, no image can be read, or the images have more or fewer channels than the model takes.
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
    with _prediction(model, source, imgsz) as run:
        for result in run.results:
            folder.mkdir(parents=True, exist_ok=True)
            name = Path(result.path).stem
            if run.predictor.dataset.mode != "image":
                frames[result.path] += 1
                name = f"{name}-{frames[result.path]:05d}"
            files.append(folder / f"{_unique(name, taken)}.png")
            image, parts = bgr(result.orig_img), run.parts(result)
            gates, detections = run.traced(result, max_det)
            figure, _ = plot_attention(image, detections, parts)
            with atomic_write(files[-1]) as part:
                figure.savefig(part, format="png", dpi=100)
            page.add(files[-1].stem, image, gates, detections, parts)
    if not files:
        raise InputError(f"source={source} has no image that can be read; name others")
    page.write(folder / PAGE)
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


def _unique(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.lower() in taken:  # one file to some file systems
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free


class _Inputs:
    """A hook that stores the latest batch of a network, and raises an error if its channels do not fit."""

    def __init__(self, model: str | Path, channels: int) -> None:
        self._model = model
        self._channels = channels
        self.waiting: list[Tensor] = []  # (1, channels, H, W) each, of images whose results come next

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].shape[1]
        if found != self._channels:
            raise InputError(
                f"model={self._model} takes images with channels: {self._channels}, and Ultralytics reads these with "
                f"{found}; name images that have {self._channels}"
            )
        self.waiting = [image[None] for image in inputs[0]]


@dataclass
class _Run:
    """A prediction that goes on.

    Attributes:
        predictor: The predictor of Ultralytics.
        results: An iterator that computes the results; a batch of images gives one result after the other.
        inputs: The inputs of the network.
        detector: The network.
        fit: How Ultralytics fits the images into the input.
    """

    predictor: Any
    results: Iterator[Any]
    inputs: _Inputs
    detector: Detector
    fit: str

    def parts(self, result: Any) -> tuple[Part, Part]:
        """Return the parts of the network's input that the image of the latest result covers."""
        height, width = self.inputs.waiting[0].shape[2:]
        return covered(result.orig_shape, (height, width), self.fit)

    def traced(self, result: Any, count: int) -> tuple[dict[str, Any], list[Detection]]:
        """Return layer -> gates, and the detections of the latest result, the strongest ones with their traces."""
        network = network_of(self.predictor.model)
        found = _detected(result)
        (top, tall), (left, wide) = ((part.start, part.length) for part in self.parts(result))
        targets = []
        for label, score, outline in found[:count]:
            x, y = (0.5, 0.5) if outline is None else (outline.min(0) + outline.max(0)) / 2
            targets.append((label, score, left + wide * float(x), top + tall * float(y)))
        image = self.inputs.waiting.pop(0)
        with capture_gates(network) as gates, torch.inference_mode():
            network(image)
        traces = trace(self.detector, named_blocks(network), image, targets)
        traces += [{}] * len(found[count:])
        return gates, [
            Detection(result.names[label], score, outline, each)
            for (label, score, outline), each in zip(found, traces, strict=True)
        ]


def _detected(result: Any) -> list[tuple[int, float, Array | None]]:
    """Return class, score and outline, as shares of the image, of each detection, the highest score first."""
    if result.probs is not None:
        return [(label, float(result.probs.data[label]), None) for label in result.probs.top5]
    boxes = result.boxes if result.obb is None else result.obb
    if boxes is None:
        return []
    if result.obb is not None:
        outlines = [*boxes.xyxyxyxyn.cpu().numpy()]
    elif result.masks is not None:
        outlines = [outline[:: 1 + len(outline) // 60] for outline in result.masks.xyn]
    else:
        outlines = [box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for box in boxes.xyxyn.cpu().numpy()]
    found = zip(boxes.cls.int().tolist(), boxes.conf.tolist(), map(np.asarray, outlines), strict=True)
    return sorted(found, key=lambda each: -each[1])


@contextmanager
def _prediction(model: str | Path, source: Any, imgsz: int | None) -> Iterator[_Run]:
    require_registered()
    check_model(str(model))
    opened = open_model(find_model(model))
    if not named_blocks(opened):
        raise InputError(f"model={model} has no ELA; put it in first: ela-yolo insert model={model}")
    size = {} if imgsz is None else {"imgsz": imgsz}
    named = str(source) if isinstance(source, Path) else source
    if isinstance(source, list):
        named = [str(each) if isinstance(each, Path) else each for each in source]
    results = opened.predict(named, stream=True, batch=1, save=False, verbose=False, **size)
    predictor = opened.predictor
    predictor.done_warmup = True  # on a GPU the warm-up is one more forward, which would count as an image
    network = network_of(predictor.model)
    inputs = _Inputs(model, opened.model.yaml.get("channels", 3))
    handle = predictor.model.register_forward_pre_hook(inputs)
    # Older releases of Ultralytics have no such attribute, and RT-DETR alone stretches its images.
    stretched = getattr(predictor, "scale_fill", type(predictor).__name__ == "RTDETRPredictor")
    fit = "stretch" if stretched else "crop" if predictor.args.task == "classify" else "letterbox"
    try:
        yield _Run(predictor, _with_progress(results, predictor), inputs, Detector(network), fit)
    finally:
        handle.remove()
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
