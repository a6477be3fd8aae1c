"""Exported files, images and reports from elsewhere run no code and end in one clear line; see SECURITY.md."""

import shutil

import onnx
import pytest
from conftest import HOME

from ela_yolo import ExportError, verify_export

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


@pytest.fixture(scope="module")
def weights(exported):
    return exported[0]


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported[1]


def images():
    return sorted(SCENES.glob("*.jpg"))[:2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("imgsz", "[96, __import__('os').getpid()]"),
        ("imgsz", "[1000000000, 96]"),
        ("imgsz", "'96x96'"),
        ("names", "[1, 2"),
        ("names", "7"),
        ("stride", "x"),
        ("batch", "0"),
        ("args", "{'quantize': 'no'}"),
        ("ela", "[]"),
        ("ela", "{"),
        ("ela", '{"nms": 7}'),
    ],
)
def test_damaged_metadata_of_an_onnx_file_is_one_clear_line(key, value, weights, onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    entry = next(entry for entry in model.metadata_props if entry.key == key)
    entry.value = value
    onnx.save(model, tmp_path / "hostile.onnx")
    if (key, value) == ("args", "{'quantize': 'no'}"):  # an unknown precision: that of the weights counts
        assert verify_export(weights, tmp_path / "hostile.onnx", images()).tolerance.precision == "float32"
        return
    with pytest.raises(ExportError, match=r"metadata|cannot be run by onnxruntime") as caught:
        verify_export(weights, tmp_path / "hostile.onnx", images())
    assert "\n" not in str(caught.value)


def test_an_image_that_is_none_is_one_clear_line(weights, onnx_file, tmp_path):
    (tmp_path / "pictures").mkdir()
    shutil.copy(images()[0], tmp_path / "pictures/a.jpg")
    for content in (b"", b"#!/bin/sh\n", images()[1].read_bytes()[:200]):
        (tmp_path / "pictures/b.jpg").write_bytes(content)
        with pytest.raises(ExportError, match=r"b\.jpg is not an image that OpenCV can read; name images with source="):
            verify_export(weights, onnx_file, sorted((tmp_path / "pictures").iterdir()))
