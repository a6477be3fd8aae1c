"""Predicts with Ultralytics image by image, and gives what the network got and found for each image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ela_yolo.errors import InputError
from ela_yolo.host.calls import Array
from ela_yolo.host.older_releases import file_of, network_of
from ela_yolo.host.progress import progress_bar

Found = tuple[int, float, Array | None]  # class, score, and outline: (N, 2) of x and y as shares of the image


class Prediction:
    """A prediction that goes on; iterating over it gives Ultralytics' results, one for each image.

    Attributes:
        network: The network that predicts.
        fit: How Ultralytics fits the images into the input: ``letterbox``, ``crop`` or ``stretch``.
    """

    def __init__(self, model: Any, source: Any, results: Iterator[Any]) -> None:
        self._source = source
        self._predictor = model.predictor
        self._results = results
        self._name = getattr(model, "ckpt_path", None) or model.model_name
        self._channels = model.model.yaml.get("channels", 3)
        self._waiting: list[Tensor] = []  # the inputs of images whose results come next
        self.network = network_of(self._predictor.model)
        # Older releases of Ultralytics have no such attribute, and RT-DETR alone stretches its images.
        stretched = getattr(self._predictor, "scale_fill", type(self._predictor).__name__ == "RTDETRPredictor")
        classifies = self._predictor.args.task == "classify"
        self.fit = "stretch" if stretched else "crop" if classifies else "letterbox"

    def __iter__(self) -> Iterator[Any]:
        first = next(self._results, None)
        if first is None:
            return
        with progress_bar("images", len(self._predictor.dataset)) as bar:
            yield first
            bar.update()
            for result in self._results:
                yield result
                bar.update()

    @property
    def is_video(self) -> bool:
        """Whether the latest result is of a video's frame."""
        return bool(self._predictor.dataset.mode != "image")

    def file_of(self, result: Any) -> Path:
        """Return the file of a result."""
        return file_of(result, self._source)

    def take_input(self) -> Tensor:
        """Return what the network got for the latest result, ``(1, channels, H, W)``."""
        return self._waiting.pop(0)

    def keep_inputs(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep a batch of inputs; a forward pre-hook of the network."""
        found = inputs[0].shape[1]
        if found != self._channels:
            raise InputError(
                f"model={self._name} takes images with {self._channels} channels, but Ultralytics reads these with "
                f"{found}; use images with {self._channels} channels"
            )
        self._waiting = [image[None] for image in inputs[0]]


@contextmanager
def predicting(model: Any, source: Any, imgsz: int | None = None) -> Iterator[Prediction]:
    """Give a prediction of a ``YOLO`` or ``RTDETR`` object, within a ``with`` block.

    Args:
        model: The model.
        source: A source as in ``YOLO.predict``.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
    """
    size = {} if imgsz is None else {"imgsz": imgsz}
    named = [*map(_text, source)] if isinstance(source, list) else _text(source)
    results = model.predict(named, stream=True, batch=1, save=False, verbose=False, **size)
    prediction = Prediction(model, named, results)
    handle = model.predictor.model.register_forward_pre_hook(prediction.keep_inputs)
    try:
        yield prediction
    finally:
        handle.remove()
        results.close()


def _text(source: Any) -> Any:
    return str(source) if isinstance(source, Path) else source


def detected(result: Any) -> list[Found]:
    """Return what a result holds, the highest score first; of a classifier its five best classes."""
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
