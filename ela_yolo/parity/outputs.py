"""The outputs of a model, part by part: the content and the unit of a part, and the errors of a file in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from ela_yolo.parity.tolerances import Tolerance

Channels = slice | list[int]
NEAREST = 1e-4  # m; the logarithm needs a smallest depth, and heads give at least 0.018 m


@dataclass(frozen=True)
class OutputParity:
    """The difference between file and model in one part of the outputs.

    Attributes:
        name: The name of the part, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad``, ``raw``, ``log`` (natural logarithm of metres)
            or ``share`` (of the pixels).
        shape: The part's shape for one image.
        max_error: The largest absolute difference over all images, in the unit, of the values that are finite on both
            sides; NaN if there are none.
        mean_error: The mean absolute difference of these values, in the unit.
        contrast: The largest difference between the model's outputs for two of the images, in the unit.
        tolerance: The largest error that passes, in the unit.
        min_contrast: The contrast must be more than this many times the largest error; where the tolerance is
            infinite, than this many times the mean error.
        nonfinite: The number of values that could not be compared, because the file or the model gives NaN or infinity.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    contrast: float
    tolerance: float
    min_contrast: float
    nonfinite: int = 0

    @property
    def verdict(self) -> str:
        """The result: ``same``, ``differs``, ``not finite`` or ``too alike``.

        Outputs that hardly change from image to image are too alike: that they are the same shows nothing.
        """
        if self.nonfinite:
            return "not finite"
        if not self.max_error <= self.tolerance:
            return "differs"
        if isfinite(self.tolerance):
            needed = max(self.min_contrast * self.max_error, self.tolerance / 100)
        else:
            needed = self.min_contrast * self.mean_error
        return "same" if self.contrast > needed else "too alike"


@dataclass(frozen=True)
class Part:
    """A part of an output: its name, its unit, and its channels."""

    name: str
    unit: str
    channels: Channels = field(default_factory=lambda: slice(None))


class Comparison:
    """Collects the errors of one part at one input size, image by image, without keeping the outputs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.shape: tuple[int, ...] = ()
        self.max_error = self.sum_of_errors = 0.0
        self.values = self.nonfinite = 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add_outputs(self, wanted: Tensor) -> None:
        """Add the model's output for an image, from which the contrast is computed."""
        self.shape = tuple(wanted.shape)
        wanted = wanted.float()
        self.low = wanted.clone() if self.low is None else torch.minimum(self.low, wanted)
        self.high = wanted.clone() if self.high is None else torch.maximum(self.high, wanted)

    def add_errors(self, wanted: Tensor, given: Tensor) -> None:
        """Add values of the model and the file's values in the same places."""
        errors = (wanted.double() - given.double()).abs()
        finite = errors.isfinite()
        self.nonfinite += int((~finite).sum())
        errors = errors[finite]
        if not errors.numel():
            return
        self.max_error = max(self.max_error, errors.max().item())
        self.sum_of_errors += errors.sum().item()
        self.values += errors.numel()

    def result(self, tolerance: Tolerance) -> OutputParity:
        """Return the errors, with the tolerance of the file's precision."""
        unit = self.part.unit
        contrast = 0.0
        if self.low is not None and self.high is not None:
            apart = (self.high != self.low).float().mean() if unit == "share" else (self.high - self.low).nan_to_num(0)
            contrast = apart.max().item()
        return OutputParity(
            name=self.part.name,
            unit=unit,
            shape=self.shape,
            max_error=self.max_error if self.values or not self.nonfinite else nan,
            mean_error=self.sum_of_errors / self.values if self.values else nan if self.nonfinite else 0.0,
            contrast=contrast,
            tolerance=getattr(tolerance, unit),
            min_contrast=1 if unit == "share" else tolerance.min_contrast,
            nonfinite=self.nonfinite,
        )


def parts_of(task: str, net: Any, given: Sequence[Tensor], final: bool) -> list[list[Part]]:
    """Return the parts of each output of a file.

    Args:
        task: The task of the model.
        net: The model.
        given: The file's outputs for one batch.
        final: Whether the first output holds final detections, with one score and a class in place of all scores.
    """
    if task == "classify":
        return [[Part("probabilities", "probability")]]
    if task == "semantic":
        class_map = Part("class map", "share")
        return [[class_map] if given[0].ndim == 3 else [Part("logits", "raw"), class_map]]
    if task == "depth":
        return [[Part("depth", "log")]]
    rest = 6 if final else 4 + len(net.names)
    parts = [Part("boxes", "px", slice(0, 4)), Part("scores", "probability", slice(4, 5 if final else rest))]
    if task == "obb":
        parts.append(Part("angles", "rad", slice(rest, None)))
    if task == "pose":
        points, values = net.model[-1].kpt_shape
        channels = range(rest, rest + points * values)
        parts.append(Part("keypoints", "px", [c for c in channels if (c - rest) % values < 2]))
        if values == 3:
            parts.append(Part("visibilities", "probability", list(channels[2::3])))
    if task == "segment":
        parts.append(Part("mask coefficients", "raw", slice(rest, None)))
        return [parts, [Part("mask prototypes", "raw")]]
    return [parts]
