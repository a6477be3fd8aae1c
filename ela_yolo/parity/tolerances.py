"""How far a file may be from its model, by the precision that it computes in, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """What passes for the same in one precision.

    Attributes:
        precision: Its name.
        px: Largest error of a box or keypoint, in px of the network's input.
        probability: Largest error of a score.
        rad: Largest error of an angle.
        raw: Largest error of mask coefficients, prototypes and the logits of a class map.
        log: Largest error of the natural logarithm of a depth.
        share: Largest share of pixels of another class, where the model's two best logits are not closer than
            ``edge`` standard deviations of all.
        layer: Largest error of a layer's output, as a share of its largest value.
        confidence: Detections below it are not compared.
        match_iou: A counterpart overlaps at least this much.
        match_score: Its score differs at most this much.
        edge: Scores this close to a limit may fall on either side of it.
        unmatched: The share of detections that may lack a counterpart.
        everywhere: Whether all values are compared, or boxes and the like only where the model's score is above
            ``confidence``; where there is nothing, low precision may put them anywhere.
        min_contrast: The outputs of different images must differ by this many times more than file and model do.
        reason: Why so much.
    """

    precision: str
    px: float
    probability: float
    rad: float
    raw: float
    log: float
    share: float
    layer: float
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
    layer=1e-3,
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
    layer=0.05,
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
    layer=0.5,
    confidence=0.25,
    match_iou=0.5,
    match_score=0.25,
    edge=0.1,
    unmatched=0.1,
    everywhere=False,
    min_contrast=10,
    reason="8 bits give no bound for single values, so confident detections decide, and mAP where data= is given",
)
MAX_MAP_LOSS = 0.02  # mAP50-95, where data= is given; what another seed of a training changes
