"""The errors that pass in a file, by the precision that it computes in, and the reasons for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """The limits of one precision; errors up to them pass.

    Attributes:
        precision: The name of the precision.
        px: The largest error of a box or keypoint, in px of the network's input.
        probability: The largest error of a score.
        rad: The largest error of an angle, in rad.
        raw: The largest error of mask coefficients, prototypes and the logits of a class map.
        log: The largest error of the natural logarithm of a depth.
        share: The largest share of pixels with another class. Pixels do not count where the model's two best logits
            are closer than ``edge`` standard deviations of all logits.
        confidence: Detections with a lower score are not compared.
        match_iou: Detections match if their IoU is at least this.
        match_score: Detections match if their scores differ by at most this.
        edge: Scores this close to a limit may lie on either side of it.
        unmatched: The largest share of detections without a match.
        everywhere: Whether boxes and the like are compared everywhere, or only where the model's score is above
            ``confidence``; elsewhere low precision may put them anywhere.
        min_contrast: The outputs of different images must differ by this many times the error between file and model.
        reason: The reason for these limits.
    """

    precision: str
    px: float
    probability: float
    rad: float
    raw: float
    log: float
    share: float
    confidence: float
    match_iou: float
    match_score: float
    edge: float
    unmatched: float
    everywhere: bool
    min_contrast: float
    reason: str


FLOAT32 = Tolerance(
    precision="float32",
    px=0.05,
    probability=1e-3,
    rad=1e-3,
    raw=1e-2,
    log=1e-3,
    share=0,
    confidence=0.001,
    match_iou=0.99,
    match_score=1e-3,
    edge=1e-4,
    unmatched=0,
    everywhere=True,
    min_contrast=100,
    reason="float32 in another order of summation, with room to spare; a wrong weight changes far more",
)
FLOAT16 = Tolerance(
    precision="float16",
    px=4,
    probability=0.05,
    rad=0.05,
    raw=0.5,
    log=0.05,
    share=0.02,
    confidence=0.05,
    match_iou=0.9,
    match_score=0.05,
    edge=0.05,
    unmatched=0.02,
    everywhere=False,
    min_contrast=10,
    reason="float16 keeps 11 bits, so a box at 640 px is a multiple of 0.5 px, and rounding adds up over the layers",
)
INT8 = Tolerance(
    precision="int8",
    px=float("inf"),
    probability=float("inf"),
    rad=float("inf"),
    raw=float("inf"),
    log=float("inf"),
    share=0.1,
    confidence=0.25,
    match_iou=0.5,
    match_score=0.25,
    edge=0.1,
    unmatched=0.1,
    everywhere=False,
    min_contrast=10,
    reason="8 bits give no bound for single values, so confident detections decide, and mAP where data= is given",
)
MAX_MAP_LOSS = 0.02  # mAP50-95, where data= is given; another seed of a training changes as much
