"""The boards of rows.yaml: what decides a class, and what does not."""

import cv2
import numpy as np
import pytest
import yaml
from conftest import REPO

from ela_yolo.data.rows import CLASSES, EDGE, render, render_board
from ela_yolo.errors import DatasetError

BOARDS = [render_board(np.random.default_rng((7, number))) for number in range(300)]


def red(image):
    """Where a flag is: red and far from gray."""
    blue, green, reds = (image[..., channel].astype(int) for channel in range(3))
    return (reds - np.maximum(blue, green)) > 60


def flags(image):
    """How much red lies at the left end of each row, and at the top end of each column, in px."""
    mask = red(image)
    return mask[:, : EDGE - 8].sum(1), mask[: EDGE - 8].sum(0)


def test_a_class_is_that_of_the_flags():
    """Read off the pixels: a flag is 7 px across the row, and a magnet lies in the middle of its row, give or take."""
    for image, objects in BOARDS:
        rows, columns = flags(image)
        for label, left, top, right, bottom in objects:
            x, y = (left + right) // 2, (top + bottom) // 2
            assert label == int(max(rows[y], columns[x]) >= 18)


def test_rows_and_columns_are_needed():
    by_row = [flags(image)[0].max() >= 18 for image, _ in BOARDS]
    by_column = [flags(image)[1].max() >= 18 for image, _ in BOARDS]
    assert all(one != other for one, other in zip(by_row, by_column, strict=True))
    assert 0.4 < np.mean(by_row) < 0.6
    labels = [label for _, objects in BOARDS for label, *_ in objects]
    assert 0.45 < np.mean(labels) < 0.55 and len(labels) > 10 * len(BOARDS)


def features(image, objects, number):
    """What can be known of an object without the flags: its pixels, its place, and where the others lie."""
    _, left, top, right, bottom = objects[number]
    x, y = (left + right) / 2, (top + bottom) / 2
    patch = cv2.resize(image[max(top - 6, 0) : bottom + 6, max(left - 6, 0) : right + 6], (12, 12))
    centers = np.array([[(o[1] + o[3]) / 2 - x, (o[2] + o[4]) / 2 - y] for o in objects])
    near = [np.histogram(centers[:, axis], bins=np.arange(-34, 35, 4))[0] for axis in (0, 1)]
    return np.concatenate([patch.ravel() / 255, [x / 128, y / 128, right - left], *near])


def test_without_the_flags_a_class_is_a_guess():
    """A linear classifier and the nearest neighbors find nothing; with the flag's red they find it."""
    found, labels, seen = [], [], []
    for image, objects in BOARDS:
        rows, columns = flags(image)
        for number, (label, left, top, right, bottom) in enumerate(objects):
            found.append(features(image, objects, number))
            labels.append(label)
            seen.append(max(rows[(top + bottom) // 2], columns[(left + right) // 2]))
    x, y = np.array(found), np.array(labels)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    half = len(x) // 2
    chance = 0.5 + 3 * 0.5 / half**0.5  # three standard deviations of guesses

    def linear(given):
        given = np.c_[given, np.ones(len(given))]
        train = given[:half]
        weights = np.linalg.solve(train.T @ train + 10 * np.eye(given.shape[1]), train.T @ (2 * y[:half] - 1))
        return np.mean((given[half:] @ weights > 0) == y[half:])

    distances = ((x[half:, None, ::4] - x[None, :half, ::4]) ** 2).sum(2)
    nearest = np.mean((y[:half][np.argsort(distances, 1)[:, :15]].mean(1) > 0.5) == y[half:])
    assert linear(x) < chance and nearest < chance
    assert linear(np.c_[x, seen]) > 0.9


def test_an_image_depends_on_its_seed_alone_and_boxes_lie_inside():
    again = [render_board(np.random.default_rng((7, number))) for number in range(5)]
    for (image, objects), (same, likewise) in zip(BOARDS, again, strict=False):
        assert np.array_equal(image, same) and objects == likewise
    assert len({image.tobytes() for image, _ in BOARDS}) == len(BOARDS)
    for _, objects in BOARDS:
        assert all(0 <= left < right <= 128 and 0 <= top < bottom <= 128 for _, left, top, right, bottom in objects)


def test_the_data_set_is_written_once(tmp_path):
    folder = render(tmp_path / "rows")
    assert [len(list((folder / "images" / split).iterdir())) for split in ("train", "val")] == [256, 64]
    first = folder / "images/train/0000.jpg"
    first.write_bytes(b"mine")
    render(folder)
    assert first.read_bytes() == b"mine"  # a finished data set is left as it is
    first.unlink()
    with pytest.raises(DatasetError, match="exists and is not a finished data set"):
        render(folder)


def test_the_names_are_words_to_yaml():
    content = yaml.safe_load((REPO / "datasets/rows.yaml").read_text(encoding="utf-8"))
    assert tuple(content["names"].values()) == CLASSES and all(isinstance(name, str) for name in CLASSES)
