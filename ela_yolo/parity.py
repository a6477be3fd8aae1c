"""What an exported file and its model give for the same images, compared: the outputs, the detections, the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ela_yolo.files import written_whole
from ela_yolo.tolerances import MAX_MAP_LOSS, Tolerance

LISTED = 5  # detections without a counterpart that are printed; all are in the JSON

Channels = slice | list[int]


def report_path(exported: str | Path) -> Path:
    """Return where the proof of an exported file is written: beside it."""
    return Path(f"{str(exported).rstrip('/')}.parity.json")


@dataclass(frozen=True)
class OutputParity:
    """How far one part of the outputs differs between file and model.

    Attributes:
        name: What the part holds, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad`` or ``raw``.
        shape: Of one image, or of one batch if it holds several.
        max_error: Largest absolute difference over all images, in the unit.
        mean_error: Mean absolute difference over all images, in the unit.
        contrast: Largest difference between the model's outputs for two of the images, in the unit.
        tolerance: The largest error that passes, in the unit.
        min_contrast: How many times the error the contrast must be: the largest error, or the mean where none is set.
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
        """``same``, ``differs``, or ``too alike``: images that hardly change the output prove nothing by equal ones."""
        if not self.max_error <= self.tolerance:  # NaN differs too
            return "differs"
        if isfinite(self.tolerance):
            needed = max(self.min_contrast * self.max_error, self.tolerance / 100)
        else:
            needed = self.min_contrast * self.mean_error
        return "same" if self.contrast > needed else "too alike"


@dataclass(frozen=True)
class Unmatched:
    """A detection that one side has and the other lacks.

    Attributes:
        image: Where.
        side: Who has it: ``model`` or ``file``.
        name: Its class.
        score: Its score.
        box: As the model gives it after NMS, in px of the network's input.
    """

    image: str
    side: str
    name: str
    score: float
    box: tuple[float, ...]

    def __str__(self) -> str:
        box = " ".join(f"{value:.1f}" for value in self.box)
        return f"only the {self.side} has {self.name} {self.score:.3f} at {box} in {self.image}"


@dataclass(frozen=True)
class ParityReport:
    """The proof of one exported file; ``str()`` of it is a table.

    Attributes:
        model: The PyTorch weights.
        exported: The exported file or folder.
        sha256: Of the exported file, or of the folder's files in the order of their names, so that a change shows.
        tolerance: What passes for the same, and why.
        runtime: What ran: package -> version.
        images: The images that went through both.
        inputs: The batches and sizes that they had: (batch, height, width).
        outputs: One entry a part of the outputs and an input size.
        detections: How many the model finds in the images (for a classifier: how many images).
        unmatched: Those of the model, or of the file, without a counterpart in the other.
        mismatches: What the file says of itself that is not so, or why it is not valid.
        scores: The metric of both on a data set, (name, model's, file's); None if no data set was given.
        notes: What else was looked at, and does not decide.
    """

    model: str
    exported: str
    sha256: str
    tolerance: Tolerance
    runtime: dict[str, str]
    images: tuple[str, ...]
    inputs: tuple[tuple[int, int, int], ...]
    outputs: tuple[OutputParity, ...]
    detections: int
    unmatched: tuple[Unmatched, ...]
    mismatches: tuple[str, ...] = ()
    scores: tuple[str, float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """Every reason why the file is not proven; empty if it is."""
        failures = list(self.mismatches)
        failures += [
            f"{part.name} differ by {part.max_error:.2g} {part.unit}, more than {part.tolerance:g}"
            for part in self.outputs
            if part.verdict == "differs"
        ]
        if alike := dict.fromkeys(part.name for part in self.outputs if part.verdict == "too alike"):
            failures.append(
                f"different images give almost the same {' and '.join(alike)}, so equal outputs prove nothing; "
                "train the model first"
            )
        if len(self.unmatched) > self.tolerance.unmatched * self.detections:
            failures.append(f"{len(self.unmatched)} of {self.detections} detections have no counterpart")
        if not self.detections:
            failures.append("the model finds nothing in these images; name others with source=")
        if self.scores and not self.scores[1] - self.scores[2] <= MAX_MAP_LOSS:
            name, of_model, of_file = self.scores
            failures.append(f"{name} falls from {of_model:.3f} to {of_file:.3f}, by more than {MAX_MAP_LOSS:g}")
        return tuple(failures)

    @property
    def passed(self) -> bool:
        """Whether the file is the same model, as far as its precision goes."""
        return not self.failures

    def __str__(self) -> str:
        rows = [("output", "shape", "max error", "mean error", "tolerance", "between images", "")]
        for part in self.outputs:
            rows.append(
                (
                    f"{part.name} ({part.unit})",
                    "x".join(map(str, part.shape)),
                    f"{part.max_error:.2g}",
                    f"{part.mean_error:.2g}",
                    f"{part.tolerance:g}" if isfinite(part.tolerance) else "none",
                    f"{part.contrast:.3g}",
                    part.verdict,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        limits = self.tolerance
        lines = [
            f"{self.exported} against {self.model}, {len(self.images)} images, {limits.precision}",
            *table,
            f"detections above {limits.confidence:g}: {self.detections}, {len(self.unmatched)} without a counterpart "
            f"(IoU {limits.match_iou:g}, score {limits.match_score:g})",
            *(f"  {each}" for each in self.unmatched[:LISTED]),
        ]
        if self.scores:
            lines.append(f"{self.scores[0]}: {self.scores[1]:.4f} by the model, {self.scores[2]:.4f} by the file")
        lines += self.notes
        same = "the same model" if limits.unmatched == 0 else f"the same model as far as {limits.precision} goes"
        lines.append(f"PROVEN {same}" if self.passed else f"NOT PROVEN: {'; '.join(self.failures)}")
        return "\n".join(lines)

    def save(self) -> Path:
        """Write the report as JSON beside the exported file and return its path."""
        file = report_path(self.exported)
        content = _finite({**asdict(self), "passed": self.passed, "failures": self.failures})
        for part, written in zip(self.outputs, content["outputs"], strict=True):
            written["verdict"] = part.verdict
        with written_whole(file) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2))
        return file


def _finite(value: Any) -> Any:
    """Return a value with None for each number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


@dataclass(frozen=True)
class Part:
    """A part of an output: what it holds, in which unit, and where along the channels."""

    name: str
    unit: str
    channels: Channels


class Comparison:
    """Gathers the errors of one part at one input size, image after image, without keeping the outputs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.shape: tuple[int, ...] = ()
        self.max_error = self.sum_of_errors = 0.0
        self.values = 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add_outputs(self, wanted: Tensor, shape: Sequence[int]) -> None:
        """Take in what the model gives for an image, to see how far different images differ."""
        self.shape = tuple(shape)
        wanted = wanted.float()
        self.low = wanted.clone() if self.low is None else torch.minimum(self.low, wanted)
        self.high = wanted.clone() if self.high is None else torch.maximum(self.high, wanted)

    def add_errors(self, wanted: Tensor, given: Tensor) -> None:
        """Take in values of the model and those of the file that belong to them."""
        errors = (wanted.double() - given.double()).abs()
        if not errors.numel():
            return
        largest = errors.max().item()
        if not largest <= self.max_error:  # NaN counts, and stays
            self.max_error = largest
        self.sum_of_errors += errors.sum().item()
        self.values += errors.numel()

    def result(self, tolerance: Tolerance) -> OutputParity:
        """Return the errors, judged by what the precision allows."""
        contrast = 0.0 if self.low is None or self.high is None else (self.high - self.low).max().item()
        return OutputParity(
            name=self.part.name,
            unit=self.part.unit,
            shape=self.shape,
            max_error=self.max_error,
            mean_error=self.sum_of_errors / max(self.values, 1),
            contrast=contrast,
            tolerance=getattr(tolerance, self.part.unit),
            min_contrast=tolerance.min_contrast,
        )


def parts_of(task: str, net: Any, final: bool) -> list[list[Part]]:
    """Return what each output of a model holds along its channels.

    Args:
        task: The task of the model.
        net: The model.
        final: Whether its first output is final detections, which have one score and a class in place of all scores.
    """
    if task == "classify":
        return [[Part("probabilities", "probability", slice(None))]]
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
        return [parts, [Part("mask prototypes", "raw", slice(None))]]
    return [parts]
