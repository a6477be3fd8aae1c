"""The errors that pass in a file, by the precision that it computes in; docs/formats.md has the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Tolerance:
    """The limits of one precision; errors up to them pass.

    Attributes:
        precision: The name of the precision.
        px: The largest error of a box or keypoint, in px of the network's input.
        probability: The largest error of a score.
        rad: The largest error of an angle, in rad.
        raw: The largest error of mask coefficients and prototypes.
        confidence: Detections with a lower score are not compared.
        match_iou: Detections match if their IoU is at least this.
        match_score: Detections match if their scores differ by at most this.
        edge: Scores this close to a limit may lie on either side of it.
        unmatched: The largest share of detections without a match.
        everywhere: Whether boxes and the like are compared everywhere, or only where the model's score is above
            ``confidence``; elsewhere low precision may move them anywhere.
        min_contrast: The outputs of different images must differ by this many times the error between file and model.
    """

    precision: str
    px: float
    probability: float
    rad: float
    raw: float
    confidence: float
    match_iou: float
    match_score: float
    edge: float
    unmatched: float
    everywhere: bool
    min_contrast: float


FLOAT32 = Tolerance(
    precision="float32",
    px=0.05,
    probability=1e-3,
    rad=1e-3,
    raw=1e-2,
    confidence=0.001,
    match_iou=0.99,
    match_score=1e-3,
    edge=1e-4,
    unmatched=0,
    everywhere=True,
    min_contrast=100,
)
FLOAT16 = Tolerance(
    precision="float16",
    px=4,
    probability=0.05,
    rad=0.05,
    raw=0.5,
    confidence=0.05,
    match_iou=0.9,
    match_score=0.05,
    edge=0.05,
    unmatched=0.02,
    everywhere=False,
    min_contrast=10,
)
INT8 = Tolerance(
    precision="int8",
    px=inf,
    probability=inf,
    rad=inf,
    raw=inf,
    confidence=0.25,
    match_iou=0.5,
    match_score=0.25,
    edge=0.1,
    unmatched=0.1,
    everywhere=False,
    min_contrast=10,
)
MAX_MAP_LOSS = 0.02  # mAP50-95, if data= is given; another seed of a training run changes as much
