"""The images of a data set, in every form in which Ultralytics takes them; compared with Ultralytics' own reader."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

from ela_yolo.errors import InputError
from ela_yolo.host.lookup import data_images
from ela_yolo.parity.images import spread_evenly


@pytest.fixture
def root(tmp_path):
    """Two folders of images with labels; names have blanks, dots and umlauts."""
    for folder, names in (("one", ["a b.jpg", "c.d.jpg"]), ("two/deep", ["ä.jpg", "e.JPG"])):
        for name in names:
            image = tmp_path / "images" / folder / name
            label = tmp_path / "labels" / folder / f"{image.stem}.txt"
            for file in (image, label):
                file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tofile(str(image))
            label.write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "images/one/notes.txt").write_text("no image")
    return tmp_path


def data_yaml(root, val):
    file = root / "data.yaml"
    content = {"path": str(root), "train": "images/one", "val": val, "names": {0: "thing"}}
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(file)


def by_ultralytics(data):
    folders = check_det_dataset(data)["val"]
    reader = YOLODataset(img_path=folders, data={"names": {0: "thing"}, "channels": 3}, task="detect", imgsz=32)
    return [Path(file).resolve() for file in reader.im_files]


ALL = ["images/one/a b.jpg", "images/one/c.d.jpg", "images/two/deep/e.JPG", "images/two/deep/ä.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    ("val", "lists", "expected"),
    [
        ("images/one", {}, ALL[:2]),
        ("images", {}, ALL),
        (["images/one", "images/two"], {}, ALL),
        ("val.txt", {"val.txt": "\n".join(f"./{name}" for name in ALL)}, ALL),
        ("lists/val.txt", {"lists/val.txt": "{root}/images/one/a b.jpg\r\n\r\n{root}/images/two/deep/ä.jpg"}, ALL[::3]),
        (["images/one", "val.txt"], {"val.txt": "./images/two/deep/ä.jpg\n"}, [*ALL[:2], ALL[3]]),
    ],
    ids=["folder", "nested folders", "several folders", "list beside its images", "absolute list", "folder and list"],
)
def test_every_form_is_read_as_ultralytics_reads_it(val, lists, expected, encoding, root, monkeypatch):
    for name, text in lists.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(text.replace("{root}", str(root)).encode(encoding))
    monkeypatch.chdir(root.parent)  # "./" in a list is the list's folder, not this one
    data = data_yaml(root, val)
    found = data_images(data, "val", "detect")
    assert found == [root / name for name in expected]
    assert sorted(found) == sorted(by_ultralytics(data))


def test_a_folder_that_holds_its_yaml(root):
    data_yaml(root, "images/two")
    assert data_images(str(root), "val", "detect") == [root / name for name in ALL[2:]]


def test_what_is_wrong_is_one_line_with_a_remedy(root):
    with pytest.raises(InputError, match=r"test:"):
        data_images(data_yaml(root, "images"), "test", "detect")
    (root / "val.txt").write_bytes("./images/one/ä.jpg".encode("latin-1"))
    with pytest.raises(InputError, match=r"val\.txt is not UTF-8 text; save it as UTF-8"):
        data_images(data_yaml(root, "val.txt"), "val", "detect")
    with pytest.raises(InputError, match=r"data=.*; fix it"):
        data_images(data_yaml(root, "nowhere"), "val", "detect")


@pytest.mark.parametrize("there", [1, 2, 15, 16, 17, 31, 32, 87])
def test_a_sample_spans_all_of_them_evenly(there):
    images = [Path(f"{number:03}.jpg") for number in range(there)]
    taken = [int(image.stem) for image in spread_evenly(images, 16)]
    assert len(taken) == len(set(taken)) == min(there, 16)
    assert (taken[0], taken[-1]) == (0, there - 1)
    steps = np.diff(taken)
    assert there == 1 or steps.max() - steps.min() <= 1
