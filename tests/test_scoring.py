"""AP by object size and resampled images, against Ultralytics' own figures of the same images."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import save
from ultralytics import YOLO, __version__
from ultralytics.data.utils import check_det_dataset
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils.checks import check_version

from ela_yolo.host.scoring import SIZES, draw_images, validate

KEYS = {"imgsz": 128, "batch": 1, "workers": 0, "plots": False, "verbose": False}  # one by one, each in its own shape
NAMES = dict(enumerate(("ball", "cube", "leaf", "ring", "star")))


@pytest.fixture(scope="module")
def scenes():
    """Image and label file of each scene to validate on."""
    images = sorted((Path(check_det_dataset("scenes.yaml")["val"])).iterdir())
    return [(image, image.parents[2] / "labels/val" / f"{image.stem}.txt") for image in images]


def data_set(folder, pictures):
    """A data set of (image, label file or None, how many times as large): pictures in folders, two of each name."""
    for number, (image, labels, factor) in enumerate(pictures):
        place = folder / "images" / str(number % 2) / f"{number // 2}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = cv2.imread(str(image))
        assert picture is not None
        cv2.imwrite(str(place), cv2.resize(picture, None, fx=factor, fy=factor))
        if labels is not None:
            target = folder / "labels" / str(number % 2) / f"{number // 2}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(labels, target)
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": NAMES}))
    return file


def scored(weights, data, **keys):
    scores = validate(YOLO(weights), by_size=True, data=str(data), **{**KEYS, "project": str(data.parent), **keys})
    assert np.shape(scores.resampled) == (300,) and list(scores.sizes) == list(scores.objects) == list(SIZES)
    return scores


@pytest.fixture(scope="module")
def mixed(scenes, tmp_path_factory):
    """Small, medium and large objects, and two pictures that show none: one has an empty file, one no file."""
    if not check_version(__version__, ">=8.3.164"):
        pytest.skip("this Ultralytics keeps no statistics of images that show nothing")
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "empty.txt").touch()
    pictures = [(*scene, 1 + number % 4) for number, scene in enumerate(scenes[:14])]
    return data_set(folder, [*pictures, (scenes[14][0], folder / "empty.txt", 1), (scenes[15][0], None, 1)])


def areas(data):
    """Of each object, in px of its image, with its class."""
    found = []
    for labels in (data.parent / "labels").rglob("*.txt"):
        image = cv2.imread(str(labels).replace("labels", "images").replace(".txt", ".png"))
        for line in labels.read_text().splitlines():
            kind, _, _, width, height = map(float, line.split())
            found.append((kind, width * image.shape[1] * height * image.shape[0]))
    return found


@pytest.mark.parametrize("keys", [{}, {"single_cls": True}, {"batch": 5}], ids=str)
def test_sizes_are_those_of_ultralytics(keys, mixed, retrained):
    """Whose own count of a data set that is not COCO newer releases have, by save_json=True."""
    weights = retrained / "weights/best.pt"
    scores = scored(weights, mixed, **keys)
    counted = [area for _, area in areas(mixed)]
    assert scores.objects == {
        "small": sum(area < 32**2 for area in counted),
        "medium": sum(32**2 <= area < 96**2 for area in counted),
        "large": sum(area >= 96**2 for area in counted),
    }
    assert min(scores.objects.values()) > 3 and min(scores.sizes.values()) > 0
    if not check_version(__version__, ">=8.4.190"):
        pytest.skip("this Ultralytics does not count sizes by itself")
    found = {}

    class Stock(DetectionValidator):
        def eval_json(self, stats):
            found.update(super().eval_json(stats))  # which are told nowhere else
            return stats

    keys = {**KEYS, "project": str(mixed.parent), "save_json": True, **keys}
    YOLO(weights).val(validator=Stock, data=str(mixed), **keys)
    assert scores.sizes == pytest.approx({size: found[f"metrics/mAP_{size}(B)"] for size in SIZES}, abs=1e-6)


def test_the_metrics_are_those_without_the_scores(mixed, retrained):
    weights = retrained / "weights/best.pt"
    scores = scored(weights, mixed)
    alone = YOLO(weights).val(data=str(mixed), project=str(mixed.parent), **KEYS)
    found = {key: value for key, value in alone.results_dict.items() if key.startswith("metrics/")}
    assert scores.metrics.items() >= found.items() and alone.box.map > 0


def test_a_resample_is_the_map_of_the_drawn_images(scenes, retrained, tmp_path):
    """Each is a file of its own in a second data set, so Ultralytics counts it as often as it was drawn."""
    weights = retrained / "weights/best.pt"
    pictures = [(*scene, 1) for scene in scenes[:6]]
    data = data_set(tmp_path / "all", pictures)
    scores = scored(weights, data)
    order = YOLO(weights)
    files = []
    order.add_callback("on_val_end", lambda validator: files.extend(validator.dataloader.dataset.im_files))
    order.val(data=str(data), project=str(tmp_path), **KEYS)
    numbers = [2 * int(Path(file).stem) + int(Path(file).parent.name) for file in files]
    for which in (0, 7):
        drawn = [pictures[numbers[number]] for number in draw_images(6)[which]]
        again = data_set(tmp_path / str(which), drawn)
        assert scores.resampled[which] == pytest.approx(scored(weights, again).value, abs=1e-6)
    assert len(set(scores.resampled)) > 100
    assert np.quantile(scores.resampled, 0.05) < scores.value < np.quantile(scores.resampled, 0.95)


def test_one_image_is_drawn_as_it_is(scenes, retrained, tmp_path):
    scores = scored(retrained / "weights/best.pt", data_set(tmp_path, [(*scenes[0], 1)]))
    assert set(scores.resampled) == {scores.value} and scores.value > 0
    assert [size for size in SIZES if np.isnan(scores.sizes[size])] == [s for s in SIZES if not scores.objects[s]]


def test_nothing_is_detected(mixed, tmp_path):
    """A size that is there has an AP of 0, and one that is not has none."""
    save(YOLO("yolov8n.yaml"), tmp_path / "new.pt")
    scores = scored(tmp_path / "new.pt", mixed, conf=0.99)
    assert scores.value == 0 and set(scores.resampled) == {0.0}
    assert scores.sizes == dict.fromkeys(SIZES, 0.0) and min(scores.objects.values()) > 0


def test_images_without_any_object(scenes, retrained, tmp_path):
    """As Ultralytics has it: an mAP of 0. A draw of those alone counts so too."""
    weights = retrained / "weights/best.pt"
    scores = scored(weights, data_set(tmp_path / "none", [(scenes[0][0], None, 1)] * 2))
    assert set(scores.resampled) == {0.0} and scores.objects == dict.fromkeys(SIZES, 0)
    assert all(map(np.isnan, scores.sizes.values()))
    scores = scored(weights, data_set(tmp_path / "half", [(*scenes[0], 1), (scenes[1][0], None, 1)]))
    assert scores.value > 0 and min(scores.resampled) == 0 and max(scores.resampled) >= scores.value
