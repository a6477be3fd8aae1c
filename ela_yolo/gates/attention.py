"""Runs a model on images for pictures of its gates, and on a data set for the statistics of its gates."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from ultralytics.utils import TQDM

from ela_yolo.ela import ELA
from ela_yolo.errors import InputError
from ela_yolo.gates.capture import capture_gates
from ela_yolo.gates.health import GateReport, HealthMeter
from ela_yolo.gates.picture import covered, plot_attention
from ela_yolo.host.lookup import check_model, data_images, find_model, open_model
from ela_yolo.host.patches import require_registered
from ela_yolo.util.files import written_whole

SMALL = 320  # px; thin lines are drawn in images below it


def attention(
    model: str | Path,
    source: str | Path,
    save: str | Path | None = None,
    imgsz: int | None = None,
    stretch: bool = False,
) -> list[Path]:
    """Draw the gates of a model's ELA blocks over images, a picture for each image, and return the files.

    :func:`plot_attention` describes the pictures. A picture has the name of its image. The frames of a video are
    numbered, and so are images of the same name. Pictures of an earlier run are replaced.

    Args:
        model: A checkpoint (.pt) or a model YAML with ELA, found as Ultralytics finds it.
        source: A source as in ``YOLO.predict``: an image, a folder, a pattern, a text file with images, a video.
        save: The folder of the pictures; None means ``MODEL-attention`` in the current folder.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
        stretch: Whether colours and axes span the values of each picture, not the same range in all pictures.

    Raises:
        InputError: If the model has no ELA, ``save`` is a file, no image can be read, or the images have more or fewer
            channels than the model takes.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Example:
        >>> attention("best.pt", "images/")  # doctest: +SKIP
        [PosixPath('best-attention/bus.png'), PosixPath('best-attention/zidane.png')]
    """
    folder = Path(f"{Path(model).stem}-attention" if save is None else save)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"save={folder} is a file; name a folder for the pictures")
    files: list[Path] = []
    taken: set[str] = set()
    frames: Counter[str] = Counter()
    with _prediction(model, source, imgsz) as (predictor, results, latest), capture_gates(predictor.model) as gates:
        # Older releases of Ultralytics have no such attribute, and RT-DETR alone stretches its images.
        stretched = getattr(predictor, "scale_fill", type(predictor).__name__ == "RTDETRPredictor")
        fit = "stretch" if stretched else "crop" if predictor.args.task == "classify" else "letterbox"
        for result in results:
            folder.mkdir(parents=True, exist_ok=True)
            name = Path(result.path).stem
            if predictor.dataset.mode != "image":
                frames[result.path] += 1
                name = f"{name}-{frames[result.path]:05d}"
            files.append(folder / f"{_unique(name, taken)}.png")
            parts = covered(result.orig_shape, latest.size, fit)
            thin = 1 if max(result.orig_shape) < SMALL else None  # or the labels would hide a small image
            figure, _ = plot_attention(result.orig_img, gates, result.plot(line_width=thin), parts, stretch)
            with written_whole(files[-1]) as part:
                figure.savefig(part, format="png", dpi=100)
    if not files:
        raise InputError(f"source={source} has no image that can be read; name others")
    return files


def _unique(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.lower() in taken:  # one file to some file systems
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free


def gate_health(model: str | Path, data: str, split: str = "val", imgsz: int | None = None) -> GateReport:
    """Return statistics of a model's gates over the images of a data set, with a verdict for each ELA block.

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
        | layer | block | gate mean | spread | saturated | scale | verdict |
        |---|---|---|---|---|---|---|
        | 3 | ELA-B identity | 0.412 | 0.0871 | 0.3% | 0.716 | alive |
        <BLANKLINE>
        over 64 images
    """
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "images.txt"
        with _prediction(model, listed, imgsz) as (predictor, results, _latest), HealthMeter(predictor.model) as meter:
            images = data_images(data, split, predictor.args.task)
            listed.write_text("\n".join(map(str, images)), encoding="utf-8")
            for _ in results:
                pass
    return GateReport(meter.result(), meter.images)


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


@contextmanager
def _prediction(
    model: str | Path, source: str | Path, imgsz: int | None
) -> Iterator[tuple[Any, Iterator[Any], _Latest]]:
    """Give the predictor of Ultralytics, an iterator that computes its results, and the latest input of its network."""
    require_registered()
    check_model(str(model))
    opened = open_model(find_model(model))
    module: nn.Module = opened.model
    if not any(isinstance(each, ELA) for each in module.modules()):
        raise InputError(f"model={model} has no ELA; put it in first: ela-yolo insert model={model}")
    size = {} if imgsz is None else {"imgsz": imgsz}
    results = opened.predict(str(source), stream=True, batch=1, save=False, verbose=False, **size)
    opened.predictor.done_warmup = True  # on a GPU the warm-up is one more forward, which would count as an image
    latest = _Latest(model, opened.model.yaml.get("channels", 3))
    opened.predictor.model.register_forward_pre_hook(latest)
    try:
        yield opened.predictor, _with_progress(results, opened.predictor), latest
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
