"""Compares the outputs and detections of a file and its model, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ela_yolo.errors import ExportError
from ela_yolo.host.older_releases import choose_branch, exported_outputs
from ela_yolo.parity.detections import Matched, Matcher, NmsSettings
from ela_yolo.parity.exported_file import ExportedFile
from ela_yolo.parity.outputs import OutputParity, PartComparison, parts_of
from ela_yolo.parity.tolerances import Tolerance


class FileComparison:
    """Compares a file with its model, batch by batch.

    Args:
        net: The model, as ``as_exported`` returns it.
        file: The file.
        nms: The settings of the NMS in the file, if it has any.

    Attributes:
        tolerance: The tolerance of the file's precision.
        found: The number of the model's detections so far; of a classifier, of the images.
        unmatched: A line for each detection that one side lacks.
        extra: How many of these the file has.
        nonfinite: A line for each output of an image that has values that are NaN or infinite.
    """

    def __init__(self, net: Any, file: ExportedFile, nms: NmsSettings) -> None:
        self.net, self.file, self.nms = net, file, nms
        self.tolerance: Tolerance = file.tolerance
        if file.kind == "nms":
            self.tolerance = replace(file.tolerance, confidence=max(nms.conf, file.tolerance.confidence))
        self.matcher = Matcher(file.task, len(net.names), self.tolerance)
        self.parts: dict[tuple[int, ...], list[list[PartComparison]]] = {}  # by the shape of the input
        self.found = 0
        self.extra = 0
        self.unmatched: list[str] = []
        self.nonfinite: list[str] = []

    def add(self, images: Tensor, files: Sequence[Path]) -> None:
        """Run file and model on a batch of images, and collect their differences."""
        given = self.file.run(images)
        with torch.no_grad():
            output = self.net(images)
        if isinstance(output, tuple):
            output = exported_outputs(output)
        wanted = [y.cpu().float() for y in (output if isinstance(output, tuple) else (output,))]
        self._check_shapes(wanted, given)
        shape = tuple(images.shape)
        if shape not in self.parts:
            parts = parts_of(self.file.task, self.net, final=self.file.kind != "raw")
            self.parts[shape] = [[PartComparison(part) for part in of_output] for of_output in parts]
        for place, file in enumerate(files):
            of_model, of_file = ([y[place : place + 1] for y in outputs] for outputs in (wanted, given))
            self._count_nonfinite(of_model, of_file, file)
            self._add_image(self.parts[shape], of_model, of_file, file)

    def outputs(self) -> list[OutputParity]:
        """Return the errors of all parts, for each shape of the input."""
        of_shapes = (comparison for parts in self.parts.values() for output in parts for comparison in output)
        return [comparison.result(self.tolerance) for comparison in of_shapes]

    def _check_shapes(self, wanted: list[Tensor], given: list[Tensor]) -> None:
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (given, wanted)]
        if self.file.kind == "nms":  # one score and a class in place of all scores, and the rows that NMS keeps
            shapes[1][0] = (shapes[1][0][0], self.nms.max_det, shapes[1][0][1] - len(self.net.names) + 2)
        if shapes[0] != shapes[1]:
            raise ExportError(
                f"{self.file.path} gives outputs of shape {shapes[0]}, its model {shapes[1]}; it is an export of "
                "another model, so export again"
            )

    def _count_nonfinite(self, wanted: list[Tensor], given: list[Tensor], image: Path) -> None:
        for side, outputs in (("model", wanted), ("file", given)):
            for number, output in enumerate(outputs):
                if count := int((~output.isfinite()).sum()):
                    values = f"{count} of {output.numel()} values that are NaN or infinite"
                    self.nonfinite.append(f"the {side} gives {values} in output {number} of {image}")

    def _add_image(
        self, parts: list[list[PartComparison]], wanted: list[Tensor], given: list[Tensor], image: Path
    ) -> None:
        if self.file.task == "classify":
            self._add_values(parts[0], wanted[0], given[0])
            self._add_class(wanted[0][0], given[0][0], image)
            return
        if self.file.kind == "raw":
            self._add_values(parts[0], wanted[0], given[0], only_detections=not self.tolerance.everywhere)
            matched = self.matcher.raw(wanted[0], given[0])
        elif self.file.kind == "end2end":
            matched = self.matcher.end2end(wanted[0][0], given[0][0])
            self._add_pairs(parts[0], wanted[0][0], matched)
        else:
            matched = self.matcher.with_nms(wanted[0], given[0][0], self.nms)
            rows, _ = self.matcher.detections(wanted[0], self.nms)
            padded = torch.zeros(given[0].shape[1:])
            padded[: len(rows)] = rows
            self._add_pairs(parts[0], padded, matched)
        if len(parts) > 1:
            self._add_values(parts[1], wanted[1], given[1])
        self.found += matched.found
        self.extra += len(matched.extra)
        for side, rows in (("model", matched.lost), ("file", matched.extra)):
            for row in rows:
                box = " ".join(f"{value:.1f}" for value in row[:4])
                name = self.net.names[int(row[5])]
                self.unmatched.append(f"only the {side} has {name} {row[4]:.3f} at {box} in {image}")

    def _add_class(self, wanted: Tensor, given: Tensor, image: Path) -> None:
        """Compare the class of the highest probability; each side gives ``(classes,)``."""
        self.found += 1
        best = [int(probabilities.argmax()) for probabilities in (wanted, given)]
        if wanted[best[0]] - wanted[best[1]] > self.tolerance.edge:  # else the two classes score the same
            of_model, of_file = (self.net.names[kind] for kind in best)
            self.unmatched.append(f"the model says {of_model} and the file {of_file} for {image}")

    def _add_values(
        self, parts: list[PartComparison], wanted: Tensor, given: Tensor, only_detections: bool = False
    ) -> None:
        """Compare an output value by value; ``only_detections`` limits this to boxes where the model finds something.

        Scores are compared everywhere. Where the model finds nothing, low precision may move boxes anywhere.
        """
        places: slice | Tensor = slice(None)
        if only_detections:
            places = wanted[0, 4 : 4 + len(self.net.names)].amax(0) > self.tolerance.confidence
        for comparison in parts:
            a, b = (output[:, comparison.part.channels] for output in (wanted, given))
            comparison.add_outputs(a)
            judged = slice(None) if comparison.part.unit == "probability" else places
            comparison.add_errors(a[..., judged], b[..., judged])

    def _add_pairs(self, parts: list[PartComparison], rows: Tensor, matched: Matched) -> None:
        """Compare the values of matched final detections; detections of equal score may come in any order."""
        for comparison in parts:
            channels = comparison.part.channels
            comparison.add_outputs(rows[:, channels])
            comparison.add_errors(*(side[:, channels] for side in matched.pairs))


def as_exported(net: Any, file: ExportedFile, nms: NmsSettings) -> Any:
    """Change a copy of a model in place, so that it gives the outputs that Ultralytics' exporter writes to the file."""
    net = net.float().cpu().eval()
    choose_branch(net, file.kind == "end2end")
    if file.kind == "end2end":
        head = net.model[-1]
        head.agnostic_nms, head.max_det = nms.agnostic_nms, nms.max_det
    return net
