"""Compares the outputs and detections of a file and its model, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ela_yolo.errors import ExportError
from ela_yolo.host.versions import choose_branch, exported_outputs
from ela_yolo.parity.detections import Matched, Matcher, NmsSettings
from ela_yolo.parity.outputs import NEAREST, Comparison, OutputParity, parts_of
from ela_yolo.parity.report import NonFinite, Unmatched
from ela_yolo.parity.runtimes import ExportedFile

DENSE_TASKS = frozenset({"depth", "semantic"})  # a value for each pixel, and no detections


class FileComparison:
    """Compares a file with its model at one batch and size, batch by batch.

    Args:
        net: The model, as :func:`as_exported` returns it.
        file: The file.
        nms: The settings of the NMS in the file, if it has any.
    """

    def __init__(self, net: Any, file: ExportedFile, nms: NmsSettings) -> None:
        self.net, self.file, self.nms = net, file, nms
        tolerance = file.tolerance
        if file.kind == "nms":
            tolerance = replace(tolerance, confidence=max(nms.conf, tolerance.confidence))
        self.tolerance = tolerance
        self.matcher = Matcher(file.task, len(net.names), tolerance)
        self.parts: list[list[Comparison]] = []
        self.found = 0
        self.unmatched: list[Unmatched] = []
        self.nonfinite: list[NonFinite] = []

    def add(self, images: Tensor, names: Sequence[str]) -> None:
        """Run file and model on a batch of images, and collect their differences.

        Args:
            images: The batch, ``(B, channels, H, W)``.
            names: The names of its images.

        Raises:
            ExportError: If the runtime fails, or the outputs of file and model have different shapes.
        """
        given = self.file.run(images)
        if self.file.kind == "end2end":  # the file gives so many detections
            self.net.model[-1].max_det = given[0].shape[1]
        if self.file.kind == "nms":
            self.nms = replace(self.nms, max_det=given[0].shape[1])
        with torch.no_grad():
            output = self.net(images)
        if not self._is_dense and isinstance(output, tuple):
            output = exported_outputs(output)
        wanted = [y.cpu().float() for y in (output if isinstance(output, tuple) else (output,))]
        self._check_shapes(wanted, given)
        if not self.parts:
            parts = parts_of(self.file.task, self.net, given, final=self.file.kind != "raw")
            self.parts = [[Comparison(part) for part in of_output] for of_output in parts]
        for place, name in enumerate(names):
            image = [y[place : place + 1] for y in wanted], [y[place : place + 1] for y in given]
            self._count_nonfinite(*image, name)
            self._add_image(*image, name)

    @property
    def _is_dense(self) -> bool:
        return self.file.task in DENSE_TASKS

    def _check_shapes(self, wanted: list[Tensor], given: list[Tensor]) -> None:
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (given, wanted)]
        if self.file.kind == "nms":  # one score and a class in place of all scores; the file tells the number of rows
            shapes[1][0] = (*shapes[0][0][:2], shapes[1][0][1] - len(self.net.names) + 2)
        if self.file.task == "semantic" and given[0].ndim == 3:  # the class of each pixel in place of its logits
            shapes[1][0] = (shapes[1][0][0], *shapes[1][0][2:])
        if shapes[0] != shapes[1]:
            raise ExportError(
                f"{self.file.path} gives outputs of shape {shapes[0]}, its model {shapes[1]}; it is an export of "
                "another model, so export again"
            )

    def _count_nonfinite(self, wanted: list[Tensor], given: list[Tensor], name: str) -> None:
        for number, (a, b) in enumerate(zip(wanted, given, strict=True)):
            bad_a, bad_b = ~a.isfinite(), ~b.isfinite()
            if a.shape == b.shape:
                bad_b &= ~bad_a
            for side, bad in (("model", bad_a), ("file", bad_b)):
                if count := int(bad.sum()):
                    self.nonfinite.append(NonFinite(name, side, number, count, bad.numel()))

    def _add_image(self, wanted: list[Tensor], given: list[Tensor], name: str) -> None:
        if self.file.task == "classify":
            self._add_class(wanted, given, name)
            return
        if self._is_dense:
            self._add_pixels(wanted[0], given[0])
            return
        if self.file.kind == "raw":
            self._dense(0, wanted, given)
            matched = self.matcher.raw(wanted[0], given[0])
        elif self.file.kind == "end2end":
            matched = self.matcher.end2end(wanted[0][0], given[0][0])
            self._paired(wanted[0][0], matched)
        else:
            matched = self.matcher.with_nms(wanted[0], given[0][0], self.nms)
            rows, _ = self.matcher.detections(wanted[0], self.nms)
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

    def _add_class(self, wanted: list[Tensor], given: list[Tensor], name: str) -> None:
        self._dense(0, wanted, given)
        self.found += 1
        pair = [int(outputs[0][0].argmax()) for outputs in (wanted, given)]
        of_model = wanted[0][0]
        if of_model[pair[0]] - of_model[pair[1]] > self.tolerance.edge:  # else the two classes score the same
            for side, kind, output in zip(("model", "file"), pair, (wanted, given), strict=True):
                score = output[0][0, kind].item()
                self.unmatched.append(Unmatched(name, side, self.net.names[kind], score, ()))

    def _add_pixels(self, wanted: Tensor, given: Tensor) -> None:
        for comparison in self.parts[0]:
            part = comparison.part
            if part.unit == "log":
                a, b = (each.clamp(min=NEAREST).log() for each in (wanted, given))
            elif part.unit == "raw":
                a, b = wanted, given
            else:
                comparison.add_outputs(_classes(wanted))
                by_file = given if given.ndim == 3 else _classes(given)
                comparison.add_errors(_wrong_pixels(wanted, by_file, self.tolerance.edge), torch.zeros(()))
                continue
            comparison.add_outputs(a)
            comparison.add_errors(a, b)

    def _dense(self, number: int, wanted: list[Tensor], given: list[Tensor]) -> None:
        """Compare an output value by value; in low precision, boxes only where the model finds something."""
        places: slice | Tensor = slice(None)
        if number == 0 and self.file.task != "classify" and not self.tolerance.everywhere:
            scores = wanted[0][0, 4 : 4 + len(self.net.names)].amax(0)
            places = scores > self.tolerance.confidence
        for comparison in self.parts[number]:
            a, b = (outputs[number][:, comparison.part.channels] for outputs in (wanted, given))
            comparison.add_outputs(a)
            judged = slice(None) if comparison.part.unit == "probability" else places
            comparison.add_errors(a[..., judged], b[..., judged])

    def _paired(self, rows: Tensor, matched: Matched) -> None:
        """Compare the values of matched final detections; detections of equal score may come in any order."""
        for comparison in self.parts[0]:
            channels = comparison.part.channels
            comparison.add_outputs(rows[:, channels])
            comparison.add_errors(*(side[:, channels] for side in matched.pairs))

    def outputs(self) -> list[OutputParity]:
        """Return the errors of all parts."""
        return [comparison.result(self.tolerance) for output in self.parts for comparison in output]


def as_exported(net: Any, file: ExportedFile, nms: NmsSettings) -> Any:
    """Change a copy of a model in place, so that it gives the outputs that Ultralytics' exporter writes to the file."""
    net = net.float().cpu().eval()
    choose_branch(net, file.kind == "end2end")
    if file.kind == "end2end":
        net.model[-1].agnostic_nms = nms.agnostic_nms
    if file.task in DENSE_TASKS:
        net.model[-1].export = True  # enlarges the map to the size of the image
    return net


def _classes(logits: Tensor) -> Tensor:
    """Return the class of each pixel, (1, H, W)."""
    return (logits[:, 0] > 0).float() if logits.shape[1] == 1 else logits.argmax(1).float()


def _wrong_pixels(logits: Tensor, given: Tensor, edge: float) -> Tensor:
    """Return the share of pixels to which the file gives another class than the model.

    Only pixels count where the two best logits, or the only one and 0, differ by more than ``edge`` standard deviations
    of all logits.
    """
    best = (
        logits.topk(2, dim=1).values if logits.shape[1] > 1 else torch.cat([logits.abs(), torch.zeros_like(logits)], 1)
    )
    is_sure = best[:, 0] - best[:, 1] > edge * logits.std()
    wrong = (_classes(logits) != given)[is_sure] if is_sure.any() else _classes(logits) != given
    return wrong.float().mean()
