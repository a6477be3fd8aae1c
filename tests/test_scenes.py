import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import yaml
from conftest import HOME, REPO, forked_python

from ela_yolo import DatasetError
from ela_yolo.data import scenes


@pytest.fixture(scope="module")
def rendered():
    """The whole data set, which is rendered once for all tests."""
    return HOME / "datasets/ela-yolo-scenes"


@pytest.fixture
def few(monkeypatch):
    """Fewer scenes, whose pixels are those of the whole data set; and the code that renders them in another process."""
    splits = {"train": 20, "val": 3}
    monkeypatch.setattr(scenes, "SPLITS", splits)
    return f"from ela_yolo.data import scenes; scenes.SPLITS = {splits}; scenes.render"


def boxes(folder):
    """Every label as (image shape, class, width, height), sizes in pixels."""
    for label in sorted(folder.glob("labels/*/*.txt")):
        image = cv2.imread(str(folder / "images" / label.parent.name / f"{label.stem}.jpg"))
        for line in label.read_text().splitlines():
            kind, x, y, w, h = map(float, line.split())
            assert x - w / 2 + 1e-5 >= 0 and x + w / 2 <= 1 + 1e-5 and y - h / 2 + 1e-5 >= 0 and y + h / 2 <= 1 + 1e-5
            yield image.shape, int(kind), w * image.shape[1], h * image.shape[0]


def test_counts_shapes_and_classes(rendered):
    for split, count in scenes.SPLITS.items():
        assert len(list((rendered / "images" / split).glob("*.jpg"))) == count
        assert len(list((rendered / "labels" / split).glob("*.txt"))) == count
    found = list(boxes(rendered))
    assert {shape[2] for shape, *_ in found} == {3}
    assert all(128 <= side <= 192 for shape, *_ in found for side in shape[:2])
    per_class = np.bincount([kind for _, kind, *_ in found], minlength=len(scenes.CLASSES))
    assert len(per_class) == len(scenes.CLASSES)
    assert per_class.min() > 0.8 * per_class.mean()


def test_boxes_lie_tight_around_what_is_drawn(monkeypatch):
    """All objects painted as magenta discs, a colour that is in no scene: the boxes are where the magenta is."""

    def disc(rng, x, y):
        return np.full((*x.shape, 3), (255.0, 0.0, 255.0)), np.hypot(x, y) <= 0.97

    monkeypatch.setattr(scenes, "PAINTERS", dict.fromkeys(scenes.CLASSES, disc))
    covered, touched = [], []
    for index in range(40):
        image, objects = scenes.render_scene(np.random.default_rng((9, index)))
        blue, green, red = (image[..., channel].astype(int) for channel in range(3))
        magenta = (blue > green + 80) & (red > green + 80)
        in_boxes = np.zeros_like(magenta)
        for _, left, top, right, bottom in objects:
            in_boxes[top:bottom, left:right] = True
            edges = (magenta[top:bottom, left : left + 2], magenta[top:bottom, right - 2 : right])
            edges += (magenta[top : top + 2, left:right], magenta[bottom - 2 : bottom, left:right])
            touched += [edge.any() for edge in edges]
        covered.append((magenta & in_boxes).sum() / max(magenta.sum(), 1))
    assert np.mean(covered) > 0.98  # the rest belongs to objects that are hidden too far to be labelled
    assert np.mean(touched) > 0.95  # the rest is where grass lies over the rim


@pytest.mark.usefixtures("few")
def test_same_seed_same_pixels_and_another_seed_others(rendered, tmp_path):
    again = scenes.render(tmp_path / "again")
    other = scenes.render(tmp_path / "other", seed=1)
    for file in ("images/train/0007.jpg", "images/val/0000.jpg", "labels/train/0007.txt"):
        assert (again / file).read_bytes() == (rendered / file).read_bytes()
        assert (other / file).read_bytes() != (rendered / file).read_bytes()
    assert (rendered / "images/train/0000.jpg").read_bytes() != (rendered / "images/val/0000.jpg").read_bytes()


def test_the_yaml_names_the_classes_in_order():
    data = yaml.safe_load((REPO / "datasets/scenes.yaml").read_text())
    assert tuple(data["names"].values()) == scenes.CLASSES
    assert list(data["names"]) == list(range(len(scenes.CLASSES)))


def test_a_killed_rendering_is_never_taken_for_a_finished_one(few, tmp_path):
    code = f"{few}({str(tmp_path / 'data')!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".*/images/train/*.jpg"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data").exists()
    scenes.render(tmp_path / "data")
    assert sum(1 for _ in (tmp_path / "data").glob("images/*/*.jpg")) == sum(scenes.SPLITS.values())


def test_two_processes_at_once_end_with_one_finished_folder(few, tmp_path):
    code = f"{few}({str(tmp_path / 'data')!r})"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not a finished data set; move or delete it"):
        scenes.render(tmp_path / "data")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.txt"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written: File exists; choose another folder"):
        scenes.render(tmp_path / "file" / "data")


def test_ultralytics_download_field_renders_at_first_use(few, tmp_path):
    """Through Ultralytics' own reading of the data YAML, into its data-set folder; the second use finds it there."""
    text = (REPO / "datasets/scenes.yaml").read_text(encoding="utf-8")
    assert "\npath: ela-yolo-scenes\n" in text and text.endswith('render(yaml["path"])\n')
    text = text.replace("path: ela-yolo-scenes", f"path: {tmp_path.name}")
    (tmp_path / "scenes.yaml").write_text(text, encoding="utf-8")
    code = (
        f"{few}; from ultralytics.data.utils import check_det_dataset; print(check_det_dataset('scenes.yaml')['val'])"
    )
    for _ in range(2):
        done = forked_python(f"{few}; {code}", cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == str(HOME / f"datasets/{tmp_path.name}/images/val")
    assert "images not found" not in done.stdout + done.stderr
