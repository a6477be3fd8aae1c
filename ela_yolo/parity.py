"""What an exported file and its model give for the same images, compared: the outputs, the detections, the verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.nms import non_max_suppression

# What float32 arithmetic in another order may change, with room to spare; a wrong weight changes far more.
TOLERANCES = {"px": 0.05, "probability": 1e-3, "rad": 1e-3, "raw": 1e-2}
# The outputs of different images must differ by this many times more than file and model do.
MIN_CONTRAST = 100
CONFIDENCE, NMS_IOU = 0.001, 0.7  # as the host's validation counts detections
MATCH_IOU, MATCH_SCORE = 0.99, 1e-3
MAX_DETECTIONS = 300


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
    def failure(self) -> str | None:
        """Why this part does not pass, or None."""
        if not self.max_error <= self.tolerance:  # NaN fails too
            return f"{self.name} differ by {self.max_error:.2g} {self.unit}, more than {self.tolerance:g}"
        if not self.contrast > max(MIN_CONTRAST * self.max_error, self.tolerance / MIN_CONTRAST):
            return (
                f"different images give almost the same {self.name} (within {self.contrast:.2g} {self.unit}), "
                "so equal outputs prove nothing; train the model first"
            )
        return None


@dataclass(frozen=True)
class ParityReport:
    """The proof of one exported file; ``str()`` of it is a table.

    Attributes:
        model: The PyTorch weights.
        exported: The exported file.
        runtime: What ran: package -> version.
        images: The images that went through both.
        outputs: One entry a part of the raw outputs.
        detections: How many the model finds in the images (for a classifier: how many images).
        unmatched: How many of them, or of the file's, have no counterpart in the other.
    """

    model: str
    exported: str
    runtime: dict[str, str]
    images: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    detections: int
    unmatched: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Every reason why the file is not proven; empty if it is."""
        failures = [part.failure for part in self.outputs if part.failure]
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
                    f"{part.contrast:.2g}",
                    "differs" if part.failure else "same",
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
        file = Path(f"{self.exported}.parity.json")
        content = {**asdict(self), "passed": self.passed, "failures": self.failures}
        for part, written in zip(self.outputs, content["outputs"], strict=True):
            written["tolerance"] = part.tolerance
        unfinished = file.with_name(f".{file.name}.unfinished")
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(unfinished, file)
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
    """Return how many detections the model has, and how many of both sides have no counterpart in the other."""
    found = unmatched = 0
    for wanted, given in zip(by_model, by_file, strict=True):
        if task == "classify":
            found += 1
            unmatched += int(wanted[0][0].argmax() != given[0][0].argmax())
            continue
        a, b = (_detections(outputs[0][:1], task, classes) for outputs in (wanted, given))
        iou = batch_probiou(_xywhr(a), _xywhr(b)) if task == "obb" else box_iou(a[:, :4], b[:, :4])
        same = (iou >= MATCH_IOU) & (a[:, None, 5] == b[None, :, 5])
        same &= (a[:, None, 4] - b[None, :, 4]).abs() <= MATCH_SCORE
        # What lies at the very edge of what NMS keeps may fall on either side of it.
        last = [d[-1, 4].item() for d in (a, b) if len(d) == MAX_DETECTIONS]
        edge = max([CONFIDENCE, *last]) + MATCH_SCORE / 10
        found += int((a[:, 4] > edge).sum())
        unmatched += int((~same.any(1) & (a[:, 4] > edge)).sum()) + int((~same.any(0) & (b[:, 4] > edge)).sum())
    return found, unmatched


def _detections(output: Tensor, task: str, classes: int) -> Tensor:
    """Return the detections of one image after NMS, best first: (N, 6 or more), box, score, class, rest."""
    kept = non_max_suppression(output, CONFIDENCE, NMS_IOU, max_det=MAX_DETECTIONS, nc=classes, rotated=task == "obb")
    return torch.as_tensor(kept[0])


def _xywhr(detections: Tensor) -> Tensor:
    return torch.cat([detections[:, :4], detections[:, 6:7]], dim=1)
