"""The outputs of a model, part by part: what each holds, in which unit, and how far a file's values are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from ela_yolo.parity.tolerances import Tolerance

Channels = slice | list[int]
NEAREST = 1e-4  # m; the logarithm of a depth needs a smallest one, and heads give 0.018 m at least


@dataclass(frozen=True)
class OutputParity:
    """How far one part of the outputs differs between file and model.

    Attributes:
        name: What the part holds, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad``, ``raw``, ``log`` (natural logarithm of metres)
            or ``share`` (of the pixels).
        shape: Of one image.
        max_error: Largest absolute difference over all images, in the unit, of the values that are finite on both
            sides; NaN where none is.
        mean_error: Mean absolute difference, likewise.
        contrast: Largest difference between the model's outputs for two of the images, in the unit.
        tolerance: The largest error that passes, in the unit.
        min_contrast: How many times the error the contrast must be: the largest error, or the mean where none is set.
        nonfinite: How many values could not be compared, since file or model gives NaN or infinity.
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
        """``same``, ``not finite``, ``differs``, or ``too alike``: outputs that no image changes show nothing."""
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
    """A part of an output: what it holds, in which unit, and where along the channels."""

    name: str
    unit: str
    channels: Channels = field(default_factory=lambda: slice(None))


class Comparison:
    """Gathers the errors of one part at one input size, image after image, without keeping the outputs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.shape: tuple[int, ...] = ()
        self.max_error = self.sum_of_errors = 0.0
        self.values = self.nonfinite = 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add_outputs(self, wanted: Tensor) -> None:
        """Take in what the model gives for an image, to see how far different images differ."""
        self.shape = tuple(wanted.shape)
        wanted = wanted.float()
        self.low = wanted.clone() if self.low is None else torch.minimum(self.low, wanted)
        self.high = wanted.clone() if self.high is None else torch.maximum(self.high, wanted)

    def add_errors(self, wanted: Tensor, given: Tensor) -> None:
        """Take in values of the model and those of the file that belong to them."""
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
        """Return the errors, judged by what the precision allows."""
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
    """Return what each output of a file holds along its channels.

    Args:
        task: The task of the model.
        net: The model.
        given: The file's outputs for one batch.
        final: Whether its first output is final detections, which have one score and a class in place of all scores.
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
