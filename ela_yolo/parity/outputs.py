"""The outputs of a model, part by part: the content and the unit of a part, and the errors of a file in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor

from ela_yolo.parity.tolerances import Tolerance

Channels = slice | list[int]


@dataclass(frozen=True)
class OutputParity:
    """The difference between file and model in one part of the outputs.

    Attributes:
        name: The name of the part, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad`` or ``raw``.
        shape: The part's shape for one image.
        max_error: The largest absolute difference over all images, in the unit; NaN if a value is not finite.
        mean_error: The mean absolute difference, in the unit.
        contrast: The largest difference between the model's outputs for two of the images, in the unit.
        tolerance: The largest error that passes, in the unit.
        min_contrast: The contrast must be more than this many times the largest error; where the tolerance is
            infinite, than this many times the mean error.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    contrast: float
    tolerance: float
    min_contrast: float

    @property
    def verdict(self) -> str:
        """The result: ``same``, ``differs``, ``not finite`` or ``too alike``.

        Outputs that hardly change from image to image are too alike: that they are the same shows nothing.
        """
        if isnan(self.max_error):
            return "not finite"
        if self.max_error > self.tolerance:
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


class PartComparison:
    """Collects the errors of one part at one input size, image by image, without keeping the outputs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.values = 0
        self.max_error = self.sum_of_errors = torch.zeros((), dtype=torch.float64)
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add_outputs(self, wanted: Tensor) -> None:
        """Add the model's output for an image, from which the contrast is computed."""
        self.low = wanted.clone() if self.low is None else torch.minimum(self.low, wanted)
        self.high = wanted.clone() if self.high is None else torch.maximum(self.high, wanted)

    def add_errors(self, wanted: Tensor, given: Tensor) -> None:
        """Add values of the model and the file's values in the same places."""
        errors = (wanted.double() - given.double()).abs()
        if errors.numel():
            self.max_error = torch.maximum(self.max_error, errors.max())  # NaN stays NaN
            self.sum_of_errors = self.sum_of_errors + errors.sum()
            self.values += errors.numel()

    def result(self, tolerance: Tolerance) -> OutputParity:
        """Return the errors, with the tolerance of the file's precision."""
        assert self.low is not None  # an image was added
        assert self.high is not None
        return OutputParity(
            name=self.part.name,
            unit=self.part.unit,
            shape=tuple(self.low.shape),
            max_error=self.max_error.item(),
            mean_error=self.sum_of_errors.item() / max(self.values, 1),
            contrast=(self.high - self.low).max().item(),
            tolerance=getattr(tolerance, self.part.unit),
            min_contrast=tolerance.min_contrast,
        )


def parts_of(task: str, net: Any, final: bool) -> list[list[Part]]:
    """Return the parts of each output of a file.

    Args:
        task: The task of the model.
        net: The model.
        final: Whether the first output holds final detections, with one score and a class in place of all scores.
    """
    if task == "classify":
        return [[Part("probabilities", "probability")]]
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
