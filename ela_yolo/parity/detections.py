"""Matches the detections of a file with those of its model, one to one, best first.

Rounding decides some of the choices of non-maximum suppression (NMS): between two boxes that overlap by just its limit,
or that have the same score. Such a choice is no difference between file and model:

- Raw outputs have the same candidates in the same places. A detection that one side lacks is a difference, unless the
  other side has the same candidate within rounding, and only its NMS chose otherwise.
- A file with NMS in it does not show its candidates. So the rules of NMS are checked, which hold for any order of equal
  scores: each detection is a candidate of the model, no two detections overlap by more than the limit, and each
  candidate that was dropped overlaps a detection whose score is not lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from ultralytics.utils.metrics import batch_probiou, bbox_iou, box_iou, probiou
from ultralytics.utils.ops import xywh2xyxy

from ela_yolo.host.versions import non_max_suppression
from ela_yolo.parity.tolerances import FLOAT32, Tolerance

IOU_ROUNDING = 1e-3  # overlaps this close to the limit of NMS may fall on either side of it


@dataclass(frozen=True)
class NmsSettings:
    """The settings of NMS, by Ultralytics' names.

    Attributes:
        conf: Detections with this score or less are dropped.
        iou: Where two boxes have a larger IoU, the one with the lower score is dropped.
        agnostic_nms: Whether boxes of different classes drop each other too.
        max_det: The largest number of detections that are kept.
    """

    conf: float = 0.25
    iou: float = 0.7
    agnostic_nms: bool = False
    max_det: int = 300

    def __str__(self) -> str:
        classes = "of all classes together" if self.agnostic_nms else "class by class"
        return f"conf {self.conf:g}, iou {self.iou:g}, {classes}, {self.max_det} detections at most"


@dataclass(frozen=True)
class Matched:
    """The matched and the unmatched detections of one image.

    Attributes:
        found: The number of the model's detections.
        lost: The model's detections that the file lacks, ``(N, 6 or more)``: box, score, class, rest.
        extra: The file's detections that the model lacks, in the same form.
        pairs: The detections that match, the model's and the file's, ``(M, 6 or more)`` each.
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
        classes: The number of its classes.
        tolerance: How close two detections must be to match.
    """

    task: str
    classes: int
    tolerance: Tolerance

    def raw(self, wanted: Tensor, given: Tensor) -> Matched:
        """Run NMS on the raw outputs of one image, ``(1, channels, candidates)`` each, and match the detections."""
        settings = NmsSettings(conf=self.tolerance.confidence, max_det=wanted.shape[2])
        (a, of_a), (b, of_b) = self.detections(wanted, settings), self.detections(given, settings)
        partner = self._pair(a, b, of_a[:, None] == of_b[None])
        equal = self._equal_to_rounding(wanted, given)
        clear_a, clear_b = (rows[:, 4] > self.tolerance.confidence + self.tolerance.edge for rows in (a, b))
        lost = (partner < 0) & clear_a & ~equal[of_a]
        extra = _left_over(partner, len(b)) & clear_b & ~equal[of_b]
        return Matched(int(clear_a.sum()), a[lost], b[extra], (a[partner >= 0], b[partner[partner >= 0]]))

    def with_nms(self, raw: Tensor, given: Tensor, settings: NmsSettings) -> Matched:
        """Match the detections of a file with NMS in it, ``(N, 6 or more)``, with the model's raw output."""
        limits = self.tolerance
        found = int((self.detections(raw, settings)[0][:, 4] > settings.conf + limits.edge).sum())
        candidates = self._candidates(raw)
        b = self._above_confidence(given)
        partner = self._pair(b, candidates, scores=raw[0, 4 : 4 + self.classes].T)
        twice = self._overlap(b, b, settings).triu(1).gt(settings.iou + IOU_ROUNDING).any(0)
        real = (partner >= 0) & ~twice
        kept = partner[real]
        clear = candidates[:, 4] > max(settings.conf, limits.confidence) + limits.edge
        clear &= candidates[:, 4] > self._cut(b[real], b, len(given))
        clear[kept] = False
        left = clear.nonzero()[:, 0]
        # Ultralytics' NMS of rotated boxes lets any better candidate drop one, also one that was dropped itself.
        droppers = torch.arange(len(candidates)) if self.task == "obb" else kept
        lost = left[~self._dropped(left, droppers, candidates, settings)]
        extra = ~real & (b[:, 4] > limits.confidence + limits.edge)
        lacking, _ = self.detections(raw[:, :, lost], settings) if len(lost) else (candidates[:0], None)
        return Matched(found, lacking, b[extra], (candidates[kept], b[real]))

    def end2end(self, wanted: Tensor, given: Tensor) -> Matched:
        """Match the final detections of one image, ``(N, 6 or more)`` each, of a head that needs no NMS."""
        a, b = self._above_confidence(wanted), self._above_confidence(given)
        partner = self._pair(a, b)
        pairs = (a[partner >= 0], b[partner[partner >= 0]])
        edge = self.tolerance.confidence + self.tolerance.edge
        lost = (partner < 0) & (a[:, 4] > max(edge, self._cut(pairs[1], b, len(given))))
        extra = _left_over(partner, len(b)) & (b[:, 4] > max(edge, self._cut(a, a, len(wanted))))
        return Matched(int((a[:, 4] > edge).sum()), a[lost], b[extra], pairs)

    def detections(self, output: Tensor, settings: NmsSettings) -> tuple[Tensor, Tensor]:
        """Return the detections of one image, best first, and the numbers of their candidates.

        Shape:
            - output: ``(1, channels, candidates)``
            - Output: ``(N, 6 or more)`` of box, score, class, rest; and ``(N,)``
        """
        output = output.float()
        if output.shape[2] == 6:  # NMS would take it for final detections
            output = torch.cat([output, torch.zeros_like(output[:, :, :1])], dim=2)
        # NMS keeps what stands between the classes and the angle of a rotated box. Older ones return no numbers.
        box, rest = output.tensor_split([4 + self.classes], dim=1)
        numbers = torch.arange(output.shape[2]).float()[None, None]
        kept = non_max_suppression(
            torch.cat([box, numbers, rest], dim=1),
            settings.conf,
            settings.iou,
            agnostic=settings.agnostic_nms,
            max_det=settings.max_det,
            nc=self.classes,
            rotated=self.task == "obb",
        )[0]
        return torch.cat([kept[:, :6], kept[:, 7:]], dim=1), kept[:, 6].long()

    def _above_confidence(self, rows: Tensor) -> Tensor:
        rows = rows[rows[:, 4] > self.tolerance.confidence]
        return rows[torch.argsort(rows[:, 4], descending=True)]

    def _cut(self, right: Tensor, rows: Tensor, places: int) -> float:
        """Return the score below which a full list of detections may have cut off others; ``right`` are the correct."""
        if len(rows) < places or not len(right):
            return 0.0
        return right[:, 4].min().item() + self.tolerance.edge

    def _candidates(self, raw: Tensor) -> Tensor:
        """Return the candidates of one image as detections, ``(candidates, 6 or more)``: box, score, class, rest."""
        rows = raw[0].T
        score, kind = rows[:, 4 : 4 + self.classes].max(1, keepdim=True)
        box = rows[:, :4] if self.task == "obb" else xywh2xyxy(rows[:, :4])
        return torch.cat([box, score, kind.float(), rows[:, 4 + self.classes :]], dim=1)

    def _overlap(self, a: Tensor, b: Tensor, settings: NmsSettings) -> Tensor:
        """Return the IoU of detections that may drop each other, else 0."""
        return self._iou(a, b) * (settings.agnostic_nms | (a[:, None, 5] == b[None, :, 5]))

    def _dropped(self, left: Tensor, droppers: Tensor, candidates: Tensor, settings: NmsSettings) -> Tensor:
        """Return which of the candidates overlap one of the droppers whose score is not lower, within rounding."""
        dropped = [torch.zeros(0, dtype=torch.bool)]
        for some in torch.split(left, 1000):  # to bound the memory
            near = self._overlap(candidates[some], candidates[droppers], settings) > settings.iou - IOU_ROUNDING
            no_lower = candidates[droppers, 4] >= candidates[some, 4, None] - self.tolerance.match_score
            dropped.append((near & no_lower & (droppers != some[:, None])).any(1))
        return torch.cat(dropped)

    def _pair(self, a: Tensor, b: Tensor, preferred: Tensor | None = None, scores: Tensor | None = None) -> Tensor:
        """Return for each row of ``a`` the row of ``b`` that it matches, or -1.

        Args:
            a: Detections, best first; they choose in this order.
            b: The detections to choose from.
            preferred: 1 for the pairs that are preferred to others, ``(len(a), len(b))``.
            scores: All scores of each row of ``b``, if its class may be another one with the same score.
        """
        limits = self.tolerance
        partner = torch.full((len(a),), -1)
        if not len(a) or not len(b):
            return partner
        overlap = self._iou(a, b)
        apart = (a[:, None, 4] - b[None, :, 4]).abs()
        same_class = a[:, None, 5] == b[None, :, 5]
        if scores is not None:
            same_class |= (scores[:, a[:, 5].long()].T - b[None, :, 4]).abs() <= limits.edge
        fits = (overlap >= limits.match_iou) & same_class & (apart <= limits.match_score)
        gain = overlap - apart if preferred is None else overlap - apart + preferred
        gain = torch.where(fits, gain + 1, -1.0)
        for row in range(len(a)):
            best = int(gain[row].argmax())
            if gain[row, best] >= 0:
                partner[row] = best
                gain[:, best] = -1
        return partner

    def _iou(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the IoU of each detection of ``a`` with each of ``b``, ``(len(a), len(b))``, of all classes."""
        if self.task == "obb":
            xywhr_a, xywhr_b = (torch.cat([d[:, :4], d[:, -1:]], dim=1) for d in (a, b))
            return torch.as_tensor(batch_probiou(xywhr_a, xywhr_b))
        return torch.as_tensor(box_iou(a[:, :4], b[:, :4]))

    def _equal_to_rounding(self, wanted: Tensor, given: Tensor) -> Tensor:
        """Return which candidates have the same box and scores on both sides, within rounding, ``(candidates,)``."""
        apart = (wanted[0, 4 : 4 + self.classes] - given[0, 4 : 4 + self.classes]).abs().amax(0)
        a, b = wanted[0].T, given[0].T
        if self.task == "obb":
            overlap = probiou(torch.cat([a[:, :4], a[:, -1:]], dim=1), torch.cat([b[:, :4], b[:, -1:]], dim=1))
        else:
            overlap = bbox_iou(a[:, :4], b[:, :4], xywh=True)
        return (overlap.reshape(-1) >= FLOAT32.match_iou) & (apart <= FLOAT32.match_score)


def _left_over(partner: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[partner[partner >= 0]] = False
    return left
