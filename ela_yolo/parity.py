"""What an exported file and its model give for the same images, compared: the outputs, the detections, the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import xywh2xyxy

from ela_yolo.files import written_whole

# What float32 arithmetic in another order may change, with room to spare; a wrong weight changes far more.
TOLERANCES = {"px": 0.05, "probability": 1e-3, "rad": 1e-3, "raw": 1e-2}
# The outputs of different images must differ by this many times more than file and model do.
MIN_CONTRAST = 100
CONFIDENCE, NMS_IOU = 0.001, 0.7  # as the host's validation counts detections
MATCH_IOU, MATCH_SCORE = 0.99, 1e-3
MAX_DETECTIONS = 300
ROUNDING = 1e-4  # scores and overlaps that are closer may be ordered either way


def report_path(exported: str | Path) -> Path:
    """Return where the proof of an exported file is written: beside it."""
    return Path(f"{exported}.parity.json")


@dataclass(frozen=True)
class OutputParity:
    """How far one part of the raw outputs differs between file and model.

    Attributes:
        name: What the part holds, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad`` or ``raw``.
        shape: Of one batch.
        max_error: Largest absolute difference over all images, in the unit.
        mean_error: Mean absolute difference over all images, in the unit.
        contrast: Largest difference between the model's outputs for two of the images, in the unit.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    contrast: float

    @property
    def tolerance(self) -> float:
        """The largest error that passes, in the unit."""
        return TOLERANCES[self.unit]

    @property
    def verdict(self) -> str:
        """``same``, ``differs``, or ``too alike``: images that hardly change the output prove nothing by equal ones."""
        if not self.max_error <= self.tolerance:  # NaN differs too
            return "differs"
        if not self.contrast > max(MIN_CONTRAST * self.max_error, self.tolerance / MIN_CONTRAST):
            return "too alike"
        return "same"


@dataclass(frozen=True)
class ParityReport:
    """The proof of one exported file; ``str()`` of it is a table.

    Attributes:
        model: The PyTorch weights.
        exported: The exported file.
        sha256: Of the exported file, so that a later change of it shows.
        runtime: What ran: package -> version.
        images: The images that went through both.
        outputs: One entry a part of the raw outputs.
        detections: How many the model finds in the images (for a classifier: how many images).
        unmatched: How many of them, or of the file's, have no counterpart in the other.
    """

    model: str
    exported: str
    sha256: str
    runtime: dict[str, str]
    images: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    detections: int
    unmatched: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Every reason why the file is not proven; empty if it is."""
        failures = [
            f"{part.name} differ by {part.max_error:.2g} {part.unit}, more than {part.tolerance:g}"
            for part in self.outputs
            if part.verdict == "differs"
        ]
        if alike := [part.name for part in self.outputs if part.verdict == "too alike"]:
            failures.append(
                f"different images give almost the same {' and '.join(alike)}, so equal outputs prove nothing; "
                "train the model first"
            )
        if self.unmatched:
            failures.append(f"{self.unmatched} detections have no counterpart")
        return tuple(failures)

    @property
    def passed(self) -> bool:
        """Whether the file is the same model."""
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
                    f"{part.tolerance:g}",
                    f"{part.contrast:.3g}",
                    part.verdict,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        verdict = "PROVEN the same model" if self.passed else f"NOT PROVEN: {'; '.join(self.failures)}"
        return (
            f"{self.exported} against {self.model}, {len(self.images)} images\n{table}\n"
            f"after NMS (confidence {CONFIDENCE:g}, IoU {NMS_IOU:g}): {self.detections} detections, "
            f"{self.unmatched} without a counterpart (IoU {MATCH_IOU:g}, score {MATCH_SCORE:g})\n{verdict}"
        )

    def save(self) -> Path:
        """Write the report as JSON beside the exported file and return its path."""
        file = report_path(self.exported)
        content = {**asdict(self), "passed": self.passed, "failures": self.failures}
        for part, written in zip(self.outputs, content["outputs"], strict=True):
            written.update(tolerance=part.tolerance, verdict=part.verdict)
            # JSON has no NaN
            written.update({key: None for key, value in written.items() if isinstance(value, float) and isnan(value)})
        with written_whole(file) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2))
        return file


def _parts(task: str, net: Any) -> list[list[tuple[str, str, slice | list[int]]]]:
    """Return what each raw output holds along its channels: name, unit, channels."""
    if task == "classify":
        return [[("probabilities", "probability", slice(None))]]
    rest = 4 + len(net.names)
    parts: list[tuple[str, str, slice | list[int]]] = [
        ("boxes", "px", slice(0, 4)),
        ("scores", "probability", slice(4, rest)),
    ]
    if task == "obb":
        parts.append(("angles", "rad", slice(rest, None)))
    if task == "pose":
        points, values = net.model[-1].kpt_shape
        channels = range(rest, rest + points * values)
        parts.append(("keypoints", "px", [c for c in channels if (c - rest) % values < 2]))
        if values == 3:
            parts.append(("visibilities", "probability", list(channels[2::3])))
    if task == "segment":
        parts.append(("mask coefficients", "raw", slice(rest, None)))
        return [parts, [("mask prototypes", "raw", slice(None))]]
    return [parts]


def compare_outputs(
    by_model: Sequence[Sequence[Tensor]], by_file: Sequence[Sequence[Tensor]], task: str, net: Any
) -> tuple[OutputParity, ...]:
    """Compare the raw outputs part by part: one list of tensors an image, from the model and from the file."""
    compared = []
    for number, parts in enumerate(_parts(task, net)):
        for name, unit, channels in parts:
            wanted = torch.stack([outputs[number][:, channels] for outputs in by_model])  # (images, B, channels, ...)
            errors = (wanted - torch.stack([outputs[number][:, channels] for outputs in by_file])).abs()
            contrast = (wanted.amax(0) - wanted.amin(0)).max().item()
            shape = tuple(wanted.shape[1:])
            compared.append(OutputParity(name, unit, shape, errors.max().item(), errors.mean().item(), contrast))
    return tuple(compared)


def compare_detections(
    by_model: Sequence[Sequence[Tensor]], by_file: Sequence[Sequence[Tensor]], task: str, classes: int
) -> tuple[int, int]:
    """Return how many detections the model has, and how many of both sides have no counterpart in the other.

    What NMS keeps or drops by rounding alone is no difference, as long as both sides offer it to NMS.
    """
    found = unmatched = 0
    for wanted, given in zip(by_model, by_file, strict=True):
        if task == "classify":
            found += 1
            unmatched += int(wanted[0][0].argmax() != given[0][0].argmax())
            continue
        a, b = (_detections(outputs[0], task, classes) for outputs in (wanted, given))
        same = (_iou(a, b, task) >= MATCH_IOU) & (a[:, None, 5] == b[None, :, 5])
        same &= (a[:, None, 4] - b[None, :, 4]).abs() <= MATCH_SCORE
        last = [d[-1, 4].item() for d in (a, b) if len(d) == MAX_DETECTIONS]
        edge = max([CONFIDENCE, *last]) + ROUNDING  # below it NMS may cut on either side
        found += int((a[:, 4] > edge).sum())
        only_a, only_b = a[~same.any(1) & (a[:, 4] > edge)], b[~same.any(0) & (b[:, 4] > edge)]
        lost = torch.cat([only_a, only_b])
        if not len(lost):
            continue
        offered = [_offered(only_a, given[0], task, classes), _offered(only_b, wanted[0], task, classes)]
        class_tie = [_class_tie(only_a, wanted[0], task, classes), _class_tie(only_b, given[0], task, classes)]
        by_rounding = torch.cat(class_tie) | _nms_tie(lost, torch.cat([a, b]), task)
        unmatched += int((~(torch.cat(offered) & by_rounding)).sum())
    return found, unmatched


def _detections(output: Tensor, task: str, classes: int) -> Tensor:
    """Return the detections of one image after NMS, best first: (N, 6 or more), box, score, class, rest."""
    own = output.clone()  # older hosts convert the boxes in place
    kept = non_max_suppression(own, CONFIDENCE, NMS_IOU, max_det=MAX_DETECTIONS, nc=classes, rotated=task == "obb")
    return torch.as_tensor(kept[0])


def _iou(a: Tensor, b: Tensor, task: str) -> Tensor:
    """Return the IoU of each detection with each other, (len(a), len(b)), whatever their classes."""
    if task == "obb":
        xywhr_a, xywhr_b = (torch.cat([d[:, :4], d[:, 6:7]], dim=1) for d in (a, b))
        return torch.as_tensor(batch_probiou(xywhr_a, xywhr_b))
    return torch.as_tensor(box_iou(a[:, :4], b[:, :4]))


def _candidates_at(lost: Tensor, output: Tensor, task: str, classes: int) -> tuple[Tensor, Tensor]:
    """Return which candidates for NMS have the box of a lost detection, (lost, N), and their scores, (N, classes)."""
    rows = output[0].T  # (N, channels)
    box = rows[:, :4] if task == "obb" else xywh2xyxy(rows[:, :4])
    layout = torch.cat([box, torch.zeros(len(rows), 2), rows[:, 4 + classes :]], dim=1)
    return _iou(lost, layout, task) >= MATCH_IOU, rows[:, 4 : 4 + classes]


def _offered(lost: Tensor, output: Tensor, task: str, classes: int) -> Tensor:
    """Return which lost detections are among the candidates, with their box and the score of their class."""
    at_box, scores = _candidates_at(lost, output, task, classes)
    score = scores[:, lost[:, 5].long()].T  # (lost, N)
    return (at_box & ((score - lost[:, 4:5]).abs() <= MATCH_SCORE)).any(1)


def _class_tie(lost: Tensor, output: Tensor, task: str, classes: int) -> Tensor:
    """Return which lost detections got their class by rounding alone: another one scores the same there."""
    at_box, scores = _candidates_at(lost, output, task, classes)
    tied = (scores[None] - lost[:, None, 4:5]).abs() < ROUNDING  # (lost, N, classes)
    return (at_box & (tied.sum(2) > 1)).any(1)


def _nms_tie(lost: Tensor, kept: Tensor, task: str) -> Tensor:
    """Return which lost detections NMS may keep or drop by rounding alone, or in the wake of such a one."""
    overlap = _iou(lost, lost, task) * (lost[:, None, 5] == lost[None, :, 5])
    neighbours = (overlap > NMS_IOU - ROUNDING) & ~torch.eye(len(lost), dtype=torch.bool)
    equals = (lost[:, None, 4] - lost[None, :, 4]).abs() < ROUNDING  # either may suppress the other
    at_threshold = ((_iou(lost, kept, task) - NMS_IOU).abs() < MATCH_SCORE) & (lost[:, None, 5] == kept[None, :, 5])
    tie = (neighbours & equals).any(1) | at_threshold.any(1)
    for _ in lost:
        tie = tie | (neighbours & tie).any(1)
    return tie
