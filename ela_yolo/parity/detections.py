"""Matches the detections of a file with those of its model, one to one, best first.

Non-maximum suppression (NMS) may keep either of two overlapping boxes if their scores are equal, or keep both if their
overlap equals its limit. Rounding decides such cases, so they are no difference between file and model. Instead, the
rules of NMS are checked, which hold for any order of equal scores:

- Each detection of the file is a candidate of the model.
- No two detections of the file overlap by more than the limit.
- Each detection of the model that the file lacks overlaps a detection of the file whose score is not lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ela_yolo.host.calls import rotated_iou
from ela_yolo.host.older_releases import non_max_suppression
from ela_yolo.parity.tolerances import Tolerance

IOU_ROUNDING = 1e-3  # overlaps this close to the limit of NMS may fall on either side of it


@dataclass(frozen=True)
class NmsSettings:
    """The settings of NMS, by Ultralytics' names.

    Attributes:
        conf: Detections with this score or less are dropped.
        iou: If two boxes have a larger IoU, the one with the lower score is dropped.
        agnostic_nms: Whether boxes of different classes drop each other too.
        max_det: The largest number of detections that are kept.
    """

    conf: float = 0.25
    iou: float = 0.7
    agnostic_nms: bool = False
    max_det: int = 300

    def __str__(self) -> str:
        classes = "all classes together" if self.agnostic_nms else "each class on its own"
        return f"conf {self.conf:g}, iou {self.iou:g}, {classes}, at most {self.max_det} detections"


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
        return self.with_nms(wanted, self.detections(given, settings)[0], settings)

    def with_nms(self, wanted: Tensor, given: Tensor, settings: NmsSettings) -> Matched:
        """Match the detections of a file after NMS, ``(N, 6 or more)``, with the model's raw output."""
        limits = self.tolerance
        a, numbers = self.detections(wanted, settings)
        b = self._above_confidence(given)
        candidates, scores = self._candidates(wanted)
        kept_places = (candidates[:, 4] > limits.confidence - limits.edge).nonzero()[:, 0]  # bounds the memory
        candidates, scores = candidates[kept_places], scores[kept_places]
        numbers = torch.searchsorted(kept_places, numbers)

        partner = self._pair(b, candidates, scores)
        boxes = candidates[partner] if len(candidates) else b
        boxes[:, 5] = b[:, 5]  # if two classes score the same, the file may give either
        repeated = self._overlap(boxes, boxes, settings).triu(1) * (partner >= 0)[:, None] > settings.iou + IOU_ROUNDING
        real = (partner >= 0) & ~repeated.any(0)
        kept = partner[real]
        clear = a[:, 4] > max(settings.conf, limits.confidence) + limits.edge
        lost = clear & ~torch.isin(numbers, kept) & (a[:, 4] > self._score_cutoff(b[real], len(b), settings.max_det))
        # Ultralytics' NMS of rotated boxes lets any better candidate drop one, also one that was dropped itself.
        every = (torch.arange(len(candidates)), candidates[:, 5])
        droppers = every if self.task == "obb" else (kept, b[real, 5])
        lost[lost.clone()] = ~self._dropped(numbers[lost], *droppers, candidates, scores, settings)
        extra = ~real & (b[:, 4] > limits.confidence + limits.edge)
        return Matched(int(clear.sum()), a[lost], b[extra], (candidates[kept], b[real]))

    def end2end(self, wanted: Tensor, given: Tensor) -> Matched:
        """Match the final detections of one image, ``(N, 6 or more)`` each, of a head that needs no NMS."""
        a, b = self._above_confidence(wanted), self._above_confidence(given)
        partner = self._pair(a, b)
        pairs = (a[partner >= 0], b[partner[partner >= 0]])
        edge = self.tolerance.confidence + self.tolerance.edge
        lost = (partner < 0) & (a[:, 4] > max(edge, self._score_cutoff(pairs[1], len(b), len(given))))
        unpaired = ~torch.isin(torch.arange(len(b)), partner)
        extra = unpaired & (b[:, 4] > max(edge, self._score_cutoff(a, len(a), len(wanted))))
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

    def _score_cutoff(self, right: Tensor, rows: int, places: int) -> float:
        """Return the score below which a full list may have cut off detections; ``right`` are the correct ones."""
        if rows < places or not len(right):
            return 0.0
        return right[:, 4].min().item() + self.tolerance.edge

    def _candidates(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the candidates of one image as detections, ``(N, 6 or more)``, and all their scores, ``(N, C)``."""
        box, scores, rest = raw[0].T.tensor_split([4, 4 + self.classes], dim=1)
        score, kind = scores.max(1, keepdim=True)
        box = box if self.task == "obb" else box_convert(box, "cxcywh", "xyxy")
        return torch.cat([box, score, kind.float(), rest], dim=1), scores

    def _overlap(self, a: Tensor, b: Tensor, settings: NmsSettings) -> Tensor:
        """Return the IoU of detections that may drop each other, else 0."""
        return self._iou(a, b) * (settings.agnostic_nms | (a[:, None, 5] == b[None, :, 5]))

    def _dropped(
        self, left: Tensor, droppers: Tensor, kinds: Tensor, candidates: Tensor, scores: Tensor, settings: NmsSettings
    ) -> Tensor:
        """Return which of the candidates one of the droppers may drop: one of its class that scores no lower.

        Both within rounding: a candidate may have two classes that score the same.
        """
        best = candidates[left, 4, None]
        near = self._iou(candidates[left], candidates[droppers]) > settings.iou - IOU_ROUNDING
        same_class = settings.agnostic_nms | (scores[left][:, kinds.long()] >= best - self.tolerance.edge)
        no_lower = candidates[droppers, 4] >= best - self.tolerance.match_score
        return (near & same_class & no_lower & (droppers != left[:, None])).any(1)

    def _pair(self, a: Tensor, b: Tensor, scores: Tensor | None = None) -> Tensor:
        """Return for each row of ``a`` the row of ``b`` that it matches, or -1.

        Args:
            a: Detections, best first; they choose in this order.
            b: The detections to choose from.
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
        gain = torch.where(fits, overlap - apart + 1, -1.0)
        for row in range(len(a)):
            best = int(gain[row].argmax())
            if gain[row, best] >= 0:
                partner[row] = best
                gain[:, best] = -1
        return partner

    def _iou(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the IoU of each detection of ``a`` with each of ``b``, ``(len(a), len(b))``, of all classes."""
        if self.task == "obb":
            return rotated_iou(*(torch.cat([d[:, :4], d[:, -1:]], dim=1) for d in (a, b)))
        iou: Tensor = box_iou(a[:, :4], b[:, :4])
        return iou
