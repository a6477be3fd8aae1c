"""Detections of a file and of its model: matched one to one, and what rounding alone decides."""

import pytest
import torch
from ultralytics.utils.ops import xywh2xyxy

from ela_yolo.parity.detections import Matcher, NmsSettings
from ela_yolo.parity.tolerances import FLOAT16, FLOAT32, INT8

DETECTOR = Matcher("detect", 2, FLOAT32)


def counts(matched):
    """How many the model finds, and how many of each side have no counterpart."""
    return matched.found, len(matched.lost), len(matched.extra)


def candidates(*rows):
    """Raw outputs (1, 4 + 2 classes, N), a candidate for each (x, y, w, h, score, class)."""
    output = torch.zeros(1, 6, len(rows))
    for place, (*box, score, kind) in enumerate(rows):
        output[0, :4, place] = torch.tensor(box)
        output[0, 4 + kind, place] = score
    return output


BALL, CUBE, NOTHING = (50, 50, 20, 20, 0.9, 0), (20, 20, 10, 10, 0.5, 1), (80, 80, 8, 8, 0, 0)


@pytest.mark.parametrize(
    ("by_file", "unmatched"),
    [
        ((BALL, CUBE, NOTHING), (0, 0)),
        ((CUBE, BALL, NOTHING), (0, 0)),  # in other places, which no export does
        ((BALL, (20, 20, 10, 10, 0.5, 0), NOTHING), (1, 1)),  # another class
        ((BALL, (20, 21, 10, 10, 0.5, 1), NOTHING), (1, 1)),  # moved
        ((BALL, (20, 20, 10, 10, 0.51, 1), NOTHING), (1, 1)),  # another score
        ((BALL, (20, 20, 10, 10, 0, 1), NOTHING), (1, 0)),  # lost
        ((BALL, CUBE, (80, 80, 8, 8, 0.3, 0)), (0, 1)),  # one too many
    ],
)
def test_raw_outputs_are_matched_by_place_class_and_score(by_file, unmatched):
    matched = DETECTOR.raw(candidates(BALL, CUBE, NOTHING), candidates(*by_file))
    assert counts(matched) == (2, *unmatched)
    assert len(matched.pairs[0]) == len(matched.pairs[1]) == 2 - unmatched[0]


def test_an_int8_file_that_keeps_one_of_three_neighbours_lacks_two():
    """The three overlap by 0.54, so one of the file's would do for each of them if it might serve thrice."""
    wanted = candidates((50, 50, 20, 20, 0.9, 0), (56, 50, 20, 20, 0.85, 0), (44, 50, 20, 20, 0.8, 0), NOTHING)
    given = candidates((50, 50, 20, 20, 0.9, 0), (50, 50, 20, 20, 0.85, 0), (50, 50, 20, 20, 0.8, 0), NOTHING)
    assert counts(Matcher("detect", 2, INT8).raw(wanted, given)) == (3, 2, 0)


def test_what_nms_decides_by_rounding_alone_is_no_difference():
    # Two boxes that overlap by a hair more or less than the limit of NMS.
    under, over = 100 * 0.3 / 1.7 + 0.001, 100 * 0.3 / 1.7 - 0.001
    two = candidates((50, 50, 100, 100, 0.9, 0), (50 + under, 50, 100, 100, 0.8, 0))
    one = candidates((50, 50, 100, 100, 0.9, 0), (50 + over, 50, 100, 100, 0.8, 0))
    assert counts(DETECTOR.raw(two, one)) == (2, 0, 0)
    assert counts(DETECTOR.raw(one, two)) == (1, 0, 0)
    # Two boxes of which each suppresses the other, with equal scores but for rounding.
    first = candidates((50, 50, 100, 100, 0.800001, 0), (55, 50, 100, 100, 0.8, 0))
    second = candidates((50, 50, 100, 100, 0.8, 0), (55, 50, 100, 100, 0.800001, 0))
    assert counts(DETECTOR.raw(first, second)) == (1, 0, 0)
    # A box whose two classes score the same.
    first, second = candidates((50, 50, 20, 20, 0.8, 0)), candidates((50, 50, 20, 20, 0.8, 1))
    first[0, 5] = second[0, 4] = 0.799999
    assert counts(DETECTOR.raw(first, second)) == (1, 0, 0)


def test_low_precision_is_excused_by_no_tie_that_its_own_error_makes():
    """A float16 file may move a box by a tenth; that NMS then drops or keeps it is still a difference."""
    wanted = candidates((50, 50, 100, 100, 0.9, 0), (50 + 19, 50, 100, 100, 0.8, 0))
    given = candidates((50, 50, 100, 100, 0.9, 0), (50 + 16, 50, 100, 100, 0.8, 0))
    assert counts(Matcher("detect", 2, FLOAT16).raw(wanted, given)) == (2, 1, 0)
    assert counts(Matcher("detect", 2, FLOAT16).raw(given, wanted)) == (1, 0, 1)


def final(*rows, places=5):
    """Final detections (x1, y1, x2, y2, score, class), padded as a file has them."""
    padded = torch.zeros(places, 6)
    if rows:
        padded[: len(rows)] = torch.tensor(rows)
    return padded


FIRST, SECOND = (40.0, 40, 60, 60, 0.9, 0), (15.0, 15, 25, 25, 0.9, 1)


@pytest.mark.parametrize(
    ("by_file", "unmatched"),
    [
        ((SECOND, FIRST), (0, 0)),  # equal scores come in any order
        (((40.0, 40, 60, 60, 0.9, 1), SECOND), (1, 1)),  # another class
        (((41.0, 40, 61, 60, 0.9, 0), SECOND), (1, 1)),  # moved
        (((40.0, 40, 60, 60, 0.8, 0), SECOND), (1, 1)),  # another score
        ((FIRST,), (1, 0)),
        ((FIRST, FIRST), (1, 1)),  # one of the file's twice, and the other not at all
        ((FIRST, SECOND, (1.0, 1, 9, 9, 0.5, 0)), (0, 1)),
    ],
)
def test_final_detections_are_matched_in_any_order(by_file, unmatched):
    matched = DETECTOR.end2end(final(FIRST, SECOND), final(*by_file))
    assert counts(matched) == (2, *unmatched)
    assert len(matched.pairs[0]) == len(matched.pairs[1]) == 2 - unmatched[0]


def by_nms(raw, settings):
    """What a file with NMS in it gives for raw outputs: the model's own detections here."""
    kept, _ = Matcher("detect", 2, FLOAT32).detections(raw, settings)
    return final(*kept.tolist())


def test_a_file_with_nms_is_held_to_the_settings_it_was_exported_with():
    three = candidates((50, 50, 20, 20, 0.9, 0), (54, 50, 20, 20, 0.8, 0), (50, 56, 20, 20, 0.7, 1), NOTHING)
    loose, tight = NmsSettings(iou=0.7), NmsSettings(iou=0.5)
    together = NmsSettings(iou=0.5, agnostic_nms=True)
    found = {settings: int((by_nms(three, settings)[:, 4] > 0).sum()) for settings in (loose, tight, together)}
    assert found == {loose: 3, tight: 2, together: 1}
    for settings, count in found.items():
        assert counts(DETECTOR.with_nms(three, by_nms(three, settings), settings)) == (count, 0, 0)
    assert counts(DETECTOR.with_nms(three, by_nms(three, tight), loose)) == (3, 1, 0)
    assert counts(DETECTOR.with_nms(three, by_nms(three, loose), tight)) == (2, 0, 1)
    assert counts(DETECTOR.with_nms(three, by_nms(three, loose), NmsSettings(iou=0))) == (2, 0, 1)  # 0 is a value


AT_THE_LIMIT = candidates((50, 50, 100, 100, 0.9, 0), (50 + 100 * 0.3 / 1.7, 50, 100, 100, 0.8, 0))
EQUAL = candidates((50, 50, 100, 100, 0.8, 0), (55, 50, 100, 100, 0.8, 0))
THREE_EQUAL = candidates(*((x, 50, 100, 100, 0.8, 0) for x in (60, 70, 80)), NOTHING)  # 0.82, 0.67 between the outer
TWO_CLASSES = candidates((50, 50, 20, 20, 0.8, 0), NOTHING)
TWO_CLASSES[0, 5, 0] = 0.799999


@pytest.mark.parametrize(
    ("raw", "by_file", "unmatched"),
    [
        (AT_THE_LIMIT, [0], 0),
        (AT_THE_LIMIT, [0, 1], 0),
        (AT_THE_LIMIT, [1], 1),  # the better one is certain
        (EQUAL, [0], 0),
        (EQUAL, [1], 0),
        (EQUAL, [0, 1], 1),  # either, but not both
        (EQUAL, [], 1),
        (THREE_EQUAL, [1], 0),
        (THREE_EQUAL, [0, 2], 0),
        (THREE_EQUAL, [0], 1),
    ],
)
def test_what_nms_in_the_file_decides_by_rounding_alone_is_no_difference(raw, by_file, unmatched):
    score, kind = raw[0, 4:].max(0)
    every = torch.cat([xywh2xyxy(raw[0, :4].T), score[:, None], kind[:, None].float()], 1)
    matched = DETECTOR.with_nms(raw, final(*every[by_file].tolist()), NmsSettings())
    assert len(matched.lost) + len(matched.extra) == unmatched


def test_a_file_with_nms_may_give_either_of_two_classes_that_score_the_same():
    for kind in (0, 1):
        matched = DETECTOR.with_nms(TWO_CLASSES, final((40.0, 40, 60, 60, 0.8, kind)), NmsSettings())
        assert (len(matched.lost), len(matched.extra)) == (0, 0)


def test_two_classes_of_one_box_may_score_the_same_among_neighbors():
    """A model that is very sure gives 1 to several classes, and rounding decides which class drops which box."""
    boxes = torch.tensor([[50.0, 50, 100, 100], [60, 50, 100, 100], [70, 50, 100, 100], [300, 300, 9, 9]]).T
    model = torch.cat([boxes, torch.ones(2, 4)])[None]
    model[0, 4:, 3] = 0
    first, second = model.clone(), model.clone()
    first[0, 5, :3] -= 1e-6  # all boxes are of class 0, and the first one drops the second
    second[0, 4, 1] -= 1e-6  # the second is of class 1, so the first one keeps its neighbors
    second[0, 5, [0, 2]] -= 1e-6
    for wanted, given in ((first, second), (second, first)):
        matched = DETECTOR.raw(wanted, given)
        assert (len(matched.lost), len(matched.extra)) == (0, 0)


def test_a_list_full_of_nonsense_lacks_what_the_model_finds():
    """Where a list is full, rows that are wrong do not raise the score from which detections count."""
    nonsense = final(*((1.0, 2, 60, 70, 0.9999, 0),) * 5)
    assert counts(DETECTOR.end2end(final(FIRST, SECOND), nonsense)) == (2, 2, 5)
    assert counts(DETECTOR.with_nms(candidates(BALL, CUBE, NOTHING), nonsense, NmsSettings())) == (2, 2, 5)
    wrong, right = final((10.0, 10, 50, 50, 0.88, 0), places=1), final((100.0, 100, 150, 150, 0.95, 1), places=1)
    assert counts(DETECTOR.end2end(wrong, right)) == (1, 1, 1)
    assert counts(DETECTOR.end2end(wrong, wrong)) == (1, 0, 0)


def test_what_a_full_list_cuts_off_is_no_difference():
    rows = [(10.0 * x, 0, 10 * x + 8, 8, 0.9 - 0.1 * x, 0) for x in range(5)]
    last, other = (50.0, 0, 58, 8, 0.49995, 0), (60.0, 0, 68, 8, 0.49999, 0)
    assert counts(DETECTOR.end2end(final(*rows[:4], last), final(*rows[:4], other))) == (5, 0, 0)


@pytest.mark.parametrize("keeps", [0, 1])
def test_a_box_close_to_another_is_matched_with_its_own_candidate(keeps):
    raw = candidates((330, 330, 300, 300, 0.88, 0), (330.5, 330, 300, 300, 0.88002, 0), NOTHING)
    by_file = final((180 + keeps / 2, 180, 480 + keeps / 2, 480, float(raw[0, 4, keeps]), 0))
    matched = DETECTOR.with_nms(raw, by_file, NmsSettings())
    assert counts(matched) == (1, 0, 0)
    of_model, of_file = (side[:, :4] for side in matched.pairs)
    assert torch.allclose(of_model, of_file)


def test_six_candidates_are_not_taken_for_final_detections():
    raw = candidates(BALL, CUBE, *(NOTHING,) * 4)
    assert counts(DETECTOR.raw(raw, raw)) == (2, 0, 0)


def test_rotated_boxes_are_matched_by_their_angle_too():
    obb = Matcher("obb", 2, FLOAT32)
    wanted = torch.zeros(1, 7, 4)
    wanted[0, :, 0] = torch.tensor([50, 50, 40, 10, 0.9, 0, 0.3])
    turned, moved = wanted.clone(), wanted.clone()
    turned[0, 6, 0] = 0.6
    moved[0, 0, 0] += 0.001
    assert counts(obb.raw(wanted, wanted)) == (1, 0, 0)
    assert counts(obb.raw(wanted, moved)) == (1, 0, 0)
    assert counts(obb.raw(wanted, turned)) == (1, 1, 1)
