"""Detections of a file and of its model: what counts as a counterpart, and what rounding alone decides."""

import pytest
import torch

from ela_yolo.detections import Matcher
from ela_yolo.tolerances import FLOAT32

DETECTOR = Matcher("detect", 2, FLOAT32)


def counts(wanted, given):
    """How many the model finds, and how many of both sides have no counterpart."""
    matched = DETECTOR.after_nms(wanted, given)
    return matched.found, len(matched.lost) + len(matched.extra)


def detections(*rows):
    """Raw outputs (1, 4 + 2 classes, N) that NMS turns into these rows of (x, y, w, h, score, class)."""
    output = torch.zeros(1, 6, len(rows))
    for place, (*box, score, kind) in enumerate(rows):
        output[0, :4, place] = torch.tensor(box)
        output[0, 4 + kind, place] = score
    return output


@pytest.mark.parametrize(
    ("by_file", "unmatched"),
    [
        (((50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.5, 1)), 0),
        (((50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.5, 0)), 2),  # another class
        (((50, 50, 20, 20, 0.9, 0), (20, 21, 10, 10, 0.5, 1)), 2),  # moved
        (((50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.51, 1)), 2),  # another score
        (((50, 50, 20, 20, 0.9, 0),), 1),  # lost
        (((50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.5, 1), (80, 80, 8, 8, 0.3, 0)), 1),  # one too many
    ],
)
def test_detections_are_matched_by_place_class_and_score(by_file, unmatched):
    wanted = detections((50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.5, 1))
    assert counts(wanted, detections(*by_file)) == (2, unmatched)


def test_what_nms_decides_by_rounding_alone_is_no_difference():
    # Two boxes that overlap by a hair more or less than the threshold of NMS.
    under, over = 100 * 0.3 / 1.7 + 0.001, 100 * 0.3 / 1.7 - 0.001
    two = detections((50, 50, 100, 100, 0.9, 0), (50 + under, 50, 100, 100, 0.8, 0))
    one = detections((50, 50, 100, 100, 0.9, 0), (50 + over, 50, 100, 100, 0.8, 0))
    assert counts(two, one) == (2, 0)
    # Two boxes of which each suppresses the other, with equal scores but for rounding.
    first = detections((50, 50, 100, 100, 0.800001, 0), (55, 50, 100, 100, 0.8, 0))
    second = detections((50, 50, 100, 100, 0.8, 0), (55, 50, 100, 100, 0.800001, 0))
    assert counts(first, second) == (1, 0)
    # A box whose two classes score the same.
    first, second = detections((50, 50, 20, 20, 0.8, 0)), detections((50, 50, 20, 20, 0.8, 1))
    first[0, 5] = second[0, 4] = 0.799999
    assert counts(first, second) == (1, 0)


def rows(*each):
    """Final detections (x1, y1, x2, y2, score, class), padded to five as a file has them."""
    padded = torch.zeros(5, 6)
    padded[: len(each)] = torch.tensor(each)
    return padded


FIRST, SECOND = (40.0, 40, 60, 60, 0.9, 0), (15.0, 15, 25, 25, 0.9, 1)


@pytest.mark.parametrize(
    ("by_file", "unmatched"),
    [
        ((SECOND, FIRST), 0),  # equal scores come in any order
        (((40.0, 40, 60, 60, 0.9, 1), SECOND), 2),  # another class
        (((41.0, 40, 61, 60, 0.9, 0), SECOND), 2),  # moved
        (((40.0, 40, 60, 60, 0.8, 0), SECOND), 2),  # another score
        ((FIRST,), 1),
        ((FIRST, SECOND, (1.0, 1, 9, 9, 0.5, 0)), 1),
    ],
)
def test_final_detections_are_matched_in_any_order(by_file, unmatched):
    matched = DETECTOR.final(rows(FIRST, SECOND), rows(*by_file))
    assert len(matched.lost) + len(matched.extra) == unmatched
    assert len(matched.pairs[0]) == len(matched.pairs[1]) == 2 - len(matched.lost)


def test_pairs_are_counterparts():
    wanted, given = DETECTOR.final(rows(FIRST, SECOND), rows(SECOND, FIRST)).pairs
    assert torch.equal(wanted, given)
