"""Detections of a file and of its model, matched; what rounding alone decides is no difference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import xywh2xyxy

from ela_yolo.tolerances import Tolerance

NMS_IOU = 0.7  # as the host's validation has it
MAX_DETECTIONS = 300
ROUNDING = 1e-4  # scores and overlaps that are closer may be ordered either way


@dataclass(frozen=True)
class Matched:
    """What became of the detections of one image.

    Attributes:
        found: How many the model has.
        lost: The model's that the file lacks, (N, 6 or more): box, score, class, rest.
        extra: The file's that the model lacks, likewise.
        pairs: The model's detections and the file's that match, (M, 6 or more) each.
    """

    found: int
    lost: Tensor
    extra: Tensor
    pairs: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Matcher:
    """Matches detections by place, class and score.

    Attributes:
        task: The task of the model.
        classes: How many classes it has.
        tolerance: How close a counterpart must be.
    """

    task: str
    classes: int
    tolerance: Tolerance

    def after_nms(self, wanted: Tensor, given: Tensor) -> Matched:
        """Match what NMS makes of the raw outputs of one image, (1, channels, N) each.

        What NMS keeps or drops by rounding alone is no difference, as long as both sides offer it to NMS.
        """
        return self._match(self.detections(wanted), self.detections(given), wanted, given)

    def final(self, wanted: Tensor, given: Tensor, raw: Tensor | None = None) -> Matched:
        """Match the final detections of one image, (N, 6 or more) each.

        Args:
            wanted: The model's.
            given: The file's.
            raw: The model's raw outputs, (1, channels, N), if its detections come from NMS.
        """
        a, b = (rows[rows[:, 4] > self.tolerance.confidence] for rows in (wanted, given))
        return self._match(a, b, raw, None)

    def detections(
        self, output: Tensor, max_det: int = MAX_DETECTIONS, iou: float = NMS_IOU, agnostic: bool = False
    ) -> Tensor:
        """Return the detections of one image after NMS, best first: (N, 6 or more), box, score, class, rest."""
        kept = non_max_suppression(
            output.clone(),  # older hosts convert the boxes in place
            self.tolerance.confidence,
            iou,
            agnostic=agnostic,
            max_det=max_det,
            nc=self.classes,
            rotated=self.task == "obb",
        )
        return torch.as_tensor(kept[0])

    def _match(self, a: Tensor, b: Tensor, raw_a: Tensor | None, raw_b: Tensor | None) -> Matched:
        limits = self.tolerance
        overlap = self._iou(a, b)
        same = (overlap >= limits.match_iou) & (a[:, None, 5] == b[None, :, 5])
        same &= (a[:, None, 4] - b[None, :, 4]).abs() <= limits.match_score
        last = [d[-1, 4].item() for d in (a, b) if len(d) == MAX_DETECTIONS]
        # Below it NMS may cut on either side.
        edge = max([limits.confidence + limits.edge, *(score + limits.edge for score in last)])
        clear_a, clear_b = a[:, 4] > edge, b[:, 4] > edge
        only_a, only_b = a[~same.any(1) & clear_a], b[~same.any(0) & clear_b]
        lost = torch.cat([only_a, only_b])
        if len(lost) and raw_a is not None:
            offered = torch.cat([self._offered(only_a, raw_b), self._offered(only_b, raw_a)])
            tie = torch.cat([self._class_tie(only_a, raw_a), self._class_tie(only_b, raw_b)])
            excused = offered & (tie | self._nms_tie(lost, torch.cat([a, b])))
            only_a, only_b = only_a[~excused[: len(only_a)]], only_b[~excused[len(only_a) :]]
        rows, columns = same.any(1).nonzero()[:, 0], (overlap * same).argmax(1) if len(b) else same.new_zeros(0)
        pairs = (a[rows], b[columns[rows].long()]) if len(rows) else (a[:0], b[:0])
        return Matched(int(clear_a.sum()), only_a, only_b, pairs)

    def _iou(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the IoU of each detection with each other, (len(a), len(b)), whatever their classes."""
        if self.task == "obb":
            xywhr_a, xywhr_b = (torch.cat([d[:, :4], d[:, 6:7]], dim=1) for d in (a, b))
            return torch.as_tensor(batch_probiou(xywhr_a, xywhr_b))
        return torch.as_tensor(box_iou(a[:, :4], b[:, :4]))

    def _candidates_at(self, lost: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return which candidates for NMS have the box of a lost detection, (lost, N), and their scores."""
        rows = output[0].T  # (N, channels)
        box = rows[:, :4] if self.task == "obb" else xywh2xyxy(rows[:, :4])
        layout = torch.cat([box, torch.zeros(len(rows), 2), rows[:, 4 + self.classes :]], dim=1)
        return self._iou(lost, layout) >= self.tolerance.match_iou, rows[:, 4 : 4 + self.classes]

    def _offered(self, lost: Tensor, output: Tensor | None) -> Tensor:
        """Return which lost detections are among the candidates, with their box and the score of their class.

        A file that has NMS in it does not show its candidates.
        """
        if output is None:
            return torch.ones(len(lost), dtype=torch.bool)
        at_box, scores = self._candidates_at(lost, output)
        score = scores[:, lost[:, 5].long()].T  # (lost, N)
        return (at_box & ((score - lost[:, 4:5]).abs() <= self.tolerance.match_score)).any(1)

    def _class_tie(self, lost: Tensor, output: Tensor | None) -> Tensor:
        """Return which lost detections got their class by rounding alone: another one scores the same there."""
        if output is None:
            return torch.zeros(len(lost), dtype=torch.bool)
        at_box, scores = self._candidates_at(lost, output)
        tied = (scores[None] - lost[:, None, 4:5]).abs() < self.tolerance.edge  # (lost, N, classes)
        return (at_box & (tied.sum(2) > 1)).any(1)

    def _nms_tie(self, lost: Tensor, kept: Tensor) -> Tensor:
        """Return which lost detections NMS may keep or drop by rounding alone, or in the wake of such a one."""
        limits = self.tolerance
        overlap = self._iou(lost, lost) * (lost[:, None, 5] == lost[None, :, 5])
        neighbours = (overlap > NMS_IOU - limits.edge) & ~torch.eye(len(lost), dtype=torch.bool)
        equals = (lost[:, None, 4] - lost[None, :, 4]).abs() < limits.edge  # either may suppress the other
        close = (self._iou(lost, kept) - NMS_IOU).abs() < limits.match_score
        at_threshold = close & (lost[:, None, 5] == kept[None, :, 5])
        tie = (neighbours & equals).any(1) | at_threshold.any(1)
        for _ in lost:
            tie = tie | (neighbours & tie).any(1)
        return tie
