"""Detections of a file and of its model, matched one to one, best first.

Rounding decides some of what non-maximum suppression (NMS) keeps: which of two boxes that overlap by just its limit,
or which of two with the same score. That is no difference between file and model, and told apart from one:

- Raw outputs hold the same candidates in the same places. A detection that one side lacks is a difference unless the
  other side has that very candidate, equal to rounding, and only its NMS chose otherwise.
- A file with NMS in it shows no candidates. There the model's own NMS is run at limits a hair lower and higher, and
  with scores that are equal to rounding taken in either order; what it keeps each time, the file must have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import xywh2xyxy

from ela_yolo.tolerances import FLOAT32, Tolerance

IOU_ROUNDING = 1e-3  # overlaps this close to the limit of NMS may fall on either side of it
SCORE_ROUNDING = 1e-4  # scores this close may be ordered either way


@dataclass(frozen=True)
class NmsSettings:
    """What NMS is told.

    Attributes:
        conf: Scores at or below it are dropped.
        iou: Of two boxes that overlap by more the one with the lower score is dropped.
        agnostic_nms: Whether boxes of different classes drop each other too.
        max_det: As many detections are kept at most.
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

    def raw(self, wanted: Tensor, given: Tensor) -> Matched:
        """Match what NMS makes of the raw outputs of one image, (1, channels, candidates) each."""
        settings = NmsSettings(conf=self.tolerance.confidence, max_det=wanted.shape[2])
        (a, of_a), (b, of_b) = self.detections(wanted, settings), self.detections(given, settings)
        partner = self._pair(a, b, of_a[:, None] == of_b[None])
        equal = self._equal_to_rounding(wanted, given)
        clear_a, clear_b = (rows[:, 4] > self.tolerance.confidence + self.tolerance.edge for rows in (a, b))
        lost = (partner < 0) & clear_a & ~equal[of_a]
        extra = _left_over(partner, len(b)) & clear_b & ~equal[of_b]
        return Matched(int(clear_a.sum()), a[lost], b[extra], (a[partner >= 0], b[partner[partner >= 0]]))

    def with_nms(self, raw: Tensor, given: Tensor, settings: NmsSettings) -> Matched:
        """Match detections of a file with NMS in it, (N, 6 or more), with those of the model's raw output."""
        kept = [self.detections(*variant) for variant in _roundings(raw, settings, self.classes)]
        rows = torch.cat([found for found, _ in kept])
        known = torch.cat([candidates * self.classes for _, candidates in kept]) + rows[:, 5].long()
        distinct, which, times = torch.unique(known, return_inverse=True, return_counts=True)
        first = torch.full_like(distinct, len(rows)).scatter_reduce(0, which, torch.arange(len(rows)), "amin")
        certain = times == len(kept)
        order = torch.argsort(rows[first, 4] + 2 * certain, descending=True)  # those that must be there choose first
        a, certain = rows[first][order], certain[order]
        b = self._above_confidence(given)
        partner = self._pair(a, b)
        edge = self._edge(b, len(given))
        must = certain & (a[:, 4] > edge)
        extra = _left_over(partner, len(b)) & (b[:, 4] > edge)
        pairs = (a[partner >= 0], b[partner[partner >= 0]])
        return Matched(int(must.sum()), a[must & (partner < 0)], b[extra], pairs)

    def end2end(self, wanted: Tensor, given: Tensor) -> Matched:
        """Match the final detections of one image, (N, 6 or more) each, of a head that needs no NMS."""
        a, b = self._above_confidence(wanted), self._above_confidence(given)
        partner = self._pair(a, b)
        edge = max(self._edge(a, len(wanted)), self._edge(b, len(given)))
        clear = a[:, 4] > edge
        extra = _left_over(partner, len(b)) & (b[:, 4] > edge)
        pairs = (a[partner >= 0], b[partner[partner >= 0]])
        return Matched(int(clear.sum()), a[clear & (partner < 0)], b[extra], pairs)

    def detections(self, output: Tensor, settings: NmsSettings) -> tuple[Tensor, Tensor]:
        """Return the detections of one image, best first, and which candidates they are.

        Shape:
            - output: ``(1, channels, candidates)``
            - Output: ``(N, 6 or more)`` of box, score, class, rest; and ``(N,)``
        """
        kept, candidates = non_max_suppression(
            output.clone(),  # older releases convert the boxes in place
            settings.conf,
            settings.iou,
            agnostic=settings.agnostic_nms,
            max_det=settings.max_det,
            nc=self.classes,
            rotated=self.task == "obb",
            return_idxs=True,
        )
        return torch.as_tensor(kept[0]), torch.as_tensor(candidates[0]).reshape(-1).long()

    def _above_confidence(self, rows: Tensor) -> Tensor:
        rows = rows[rows[:, 4] > self.tolerance.confidence]
        return rows[torch.argsort(rows[:, 4], descending=True)]

    def _edge(self, kept: Tensor, places: int) -> float:
        """Return the score below which a detection may be cut off on one side alone."""
        lowest = kept[-1, 4].item() if places and len(kept) == places else self.tolerance.confidence
        return lowest + self.tolerance.edge

    def _pair(self, a: Tensor, b: Tensor, preferred: Tensor | None = None) -> Tensor:
        """Return for each row of ``a``, in their order, the row of ``b`` that it is matched with, or -1."""
        limits = self.tolerance
        partner = torch.full((len(a),), -1)
        if not len(a) or not len(b):
            return partner
        overlap = self._iou(a, b)
        fits = (overlap >= limits.match_iou) & (a[:, None, 5] == b[None, :, 5])
        fits &= (a[:, None, 4] - b[None, :, 4]).abs() <= limits.match_score
        gain = overlap if preferred is None else overlap + preferred
        gain = torch.where(fits, gain, -1.0)
        for row in range(len(a)):
            best = int(gain[row].argmax())
            if gain[row, best] >= 0:
                partner[row] = best
                gain[:, best] = -1
        return partner

    def _iou(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the IoU of each detection with each other, (len(a), len(b)), whatever their classes."""
        if self.task == "obb":
            xywhr_a, xywhr_b = (torch.cat([d[:, :4], d[:, -1:]], dim=1) for d in (a, b))
            return torch.as_tensor(batch_probiou(xywhr_a, xywhr_b))
        return torch.as_tensor(box_iou(a[:, :4], b[:, :4]))

    def _equal_to_rounding(self, wanted: Tensor, given: Tensor) -> Tensor:
        """Return which candidates are the same on both sides, box and all scores, (candidates,)."""
        a, b = wanted[0].T, given[0].T
        apart = (a[:, 4 : 4 + self.classes] - b[:, 4 : 4 + self.classes]).abs().amax(1)
        if self.task == "obb":
            sizes = torch.maximum(a[:, 2:4].amax(1), a.new_tensor(1.0))[:, None]
            close = torch.cat([(a[:, :4] - b[:, :4]) / sizes, a[:, -1:] - b[:, -1:]], dim=1).abs().amax(1)
            same_place = close <= 1 - FLOAT32.match_iou
        else:
            x, y = xywh2xyxy(a[:, :4]), xywh2xyxy(b[:, :4])
            inside = (torch.minimum(x[:, 2:], y[:, 2:]) - torch.maximum(x[:, :2], y[:, :2])).clamp(min=0).prod(1)
            areas = (x[:, 2:] - x[:, :2]).prod(1) + (y[:, 2:] - y[:, :2]).prod(1)
            same_place = inside / (areas - inside).clamp(min=1e-9) >= FLOAT32.match_iou
        return same_place & (apart <= FLOAT32.match_score)


def _left_over(partner: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[partner[partner >= 0]] = False
    return left


def _roundings(raw: Tensor, settings: NmsSettings, classes: int) -> list[tuple[Tensor, NmsSettings]]:
    """Return inputs for NMS that are the same but for rounding; the first is as it is."""
    variants = [(raw, settings)]
    for order in (1, -1):
        scores = raw[:, 4 : 4 + classes]
        tied = raw.clone()
        # A rounded score plus a trifle by candidate and class: equal ones come in one order, or in the other.
        trifle = torch.linspace(0, 0.01, raw.shape[2]) + torch.linspace(0, 0.1, classes)[:, None]
        tied[:, 4 : 4 + classes] = ((scores / SCORE_ROUNDING).round() + trifle * order) * SCORE_ROUNDING
        for nudge in (-IOU_ROUNDING, IOU_ROUNDING):
            iou = min(max(settings.iou + nudge, 0), 1)
            variants.append((tied, NmsSettings(settings.conf, iou, settings.agnostic_nms, settings.max_det)))
    return variants
