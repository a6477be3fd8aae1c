"""The outputs and detections of a file and of its model, compared image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ela_yolo.detections import NMS_IOU, Matched, Matcher
from ela_yolo.errors import ExportError
from ela_yolo.parity import Comparison, OutputParity, Unmatched, parts_of
from ela_yolo.runtimes import ExportedFile

NMS_CONFIDENCE = 0.25  # the host's, for NMS within the file


class FileComparison:
    """What the model and the file give at one batch and size, compared batch by batch."""

    def __init__(self, net: Any, file: ExportedFile, nms: Mapping[str, Any]) -> None:
        self.net, self.file = net, file
        tolerance = file.tolerance
        self.nms, self.agnostic = nms_settings(nms), bool(nms.get("agnostic_nms"))
        if file.kind == "nms":
            tolerance = replace(tolerance, confidence=max(self.nms["conf"], tolerance.confidence))
        self.matcher = Matcher(file.task, len(net.names), tolerance)
        self.parts = [
            [Comparison(part) for part in parts] for parts in parts_of(file.task, net, final=file.kind != "raw")
        ]
        self.found = 0
        self.unmatched: list[Unmatched] = []

    def add(self, images: Tensor, names: list[str]) -> None:
        """Run a batch of images through both."""
        with torch.no_grad():
            output = self.net(images)
        output = output[0] if isinstance(output, tuple) else output  # the second entry is for training
        wanted = [y.cpu().float() for y in (output if isinstance(output, tuple) else (output,))]
        given = self.file.run(images)
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (given, wanted)]
        if self.file.kind == "nms":  # a score and a class in place of all scores, and as many rows as the file has
            shapes[1][0] = (*shapes[0][0][:2], shapes[1][0][1] - len(self.net.names) + 2)
        if shapes[0] != shapes[1]:
            raise ExportError(
                f"{self.file.path} gives outputs of shape {shapes[0]}, its model {shapes[1]}; it is an export of "
                "another model, so export again"
            )
        for place, name in enumerate(names):
            self._add_image([y[place : place + 1] for y in wanted], [y[place : place + 1] for y in given], name)

    def _add_image(self, wanted: list[Tensor], given: list[Tensor], name: str) -> None:
        if self.file.task == "classify":
            self._dense(0, wanted, given)
            self.found += 1
            pair = [int(outputs[0][0].argmax()) for outputs in (wanted, given)]
            if pair[0] != pair[1]:
                for side, kind, output in zip(("model", "file"), pair, (wanted, given), strict=True):
                    score = output[0][0, kind].item()
                    self.unmatched.append(Unmatched(name, side, self.net.names[kind], score, ()))
            return
        if self.file.kind == "raw":
            self._dense(0, wanted, given)
            matched = self.matcher.after_nms(wanted[0], given[0])
        elif self.file.kind == "end2end":
            matched = self.matcher.final(wanted[0][0], given[0][0])
            self._paired(wanted[0][0], matched)
        else:
            rows = self.matcher.detections(wanted[0], given[0].shape[1], self.nms["iou"], self.agnostic)
            matched = self.matcher.final(rows, given[0][0], raw=wanted[0])
            padded = torch.zeros(given[0].shape[1:])
            padded[: len(rows)] = rows
            self._paired(padded, matched)
        if len(self.parts) > 1:
            self._dense(1, wanted, given)
        self.found += matched.found
        for side, rows in (("model", matched.lost), ("file", matched.extra)):
            self.unmatched += [
                Unmatched(name, side, self.net.names[int(row[5])], row[4].item(), tuple(row[:4].tolist()))
                for row in rows
            ]

    def _dense(self, number: int, wanted: list[Tensor], given: list[Tensor]) -> None:
        """Compare an output value by value, or boxes and the like where the model finds something."""
        tolerance = self.file.tolerance
        places: slice | Tensor = slice(None)
        if number == 0 and self.file.task != "classify" and not tolerance.everywhere:
            scores = wanted[0][0, 4 : 4 + len(self.net.names)].amax(0)
            places = scores > tolerance.confidence
        for comparison in self.parts[number]:
            a, b = (outputs[number][:, comparison.part.channels] for outputs in (wanted, given))
            comparison.add_outputs(a, a.shape)
            judged = slice(None) if comparison.part.unit == "probability" else places
            comparison.add_errors(a[..., judged], b[..., judged])

    def _paired(self, rows: Tensor, matched: Matched) -> None:
        """Compare final detections with their counterparts, for equal scores may come in any order."""
        for comparison in self.parts[0]:
            channels = comparison.part.channels
            comparison.add_outputs(rows[:, channels], rows[:, channels].shape)
            comparison.add_errors(*(side[:, channels] for side in matched.pairs))

    def outputs(self) -> list[OutputParity]:
        """Return what was compared."""
        tolerance = self.file.tolerance
        return [comparison.result(tolerance) for output in self.parts for comparison in output]


def nms_settings(nms: Mapping[str, Any]) -> dict[str, float]:
    """Return what NMS within a file was exported with: what is given, else the host's defaults."""
    return {"conf": nms.get("conf") or NMS_CONFIDENCE, "iou": nms.get("iou") or NMS_IOU}
