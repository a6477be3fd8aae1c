"""Exported files, images and reports from elsewhere run no code and end in one clear line; see SECURITY.md."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import yaml
from conftest import BIN, HOME, RUN, once, run
from ultralytics import YOLO

import ela_yolo.parity.runtimes
from ela_yolo import ExportError, verify_export

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


@pytest.fixture(scope="module")
def weights(exported):
    return exported[0]


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported[1]


@pytest.fixture(scope="module")
def ncnn_folder(weights):
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    once("ncnn", lambda folder: YOLO(shutil.copy(weights, folder)).export(format="ncnn", imgsz=96))
    return RUN / "ncnn/best_ncnn_model"


@pytest.fixture
def ncnn_model(ncnn_folder, tmp_path):
    return shutil.copytree(ncnn_folder, tmp_path / "mine_ncnn_model")


def images():
    return sorted(SCENES.glob("*.jpg"))[:2]


def rewrite(folder, **entries):
    file = folder / "metadata.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**content, **entries}), encoding="utf-8")


@pytest.mark.parametrize(
    "imgsz",
    [
        ["96), numpy.float32))); open('{ran}', 'w'); print((1", 96],
        [96, "96', open('{ran}', 'w'), '"],
        "__import__('os').system('touch {ran}')",
        [96],
        [10**9, 96],
        None,
    ],
)
def test_the_size_in_an_ncnn_folder_is_a_number_and_never_code(imgsz, weights, ncnn_model, tmp_path):
    ran = tmp_path / "ran"
    hostile = json.loads(json.dumps(imgsz).replace("{ran}", str(ran)))
    rewrite(ncnn_model, imgsz=hostile)
    with pytest.raises(ExportError, match=r"damaged metadata; make it with: ela-yolo export format=ncnn"):
        verify_export(weights, ncnn_model, images())
    assert not ran.exists()


def test_modules_beside_a_file_or_in_this_folder_are_not_imported(weights, ncnn_model, tmp_path):
    """The folder of the model, and the one that the command runs in, hold a numpy.py and an ncnn.py of their own."""
    for folder in (ncnn_model, tmp_path):
        for name in ("numpy", "ncnn", "yaml", "onnx"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    command = [BIN / "ela-yolo", "verify", f"model={weights}", f"against={ncnn_model}", f"source={SCENES}/000[01].jpg"]
    done = run(*command, cwd=tmp_path)
    assert "the file matches" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_a_runtime_that_does_not_end_is_ended(weights, ncnn_model, monkeypatch):
    monkeypatch.setattr(ela_yolo.parity.runtimes, "NCNN_SECONDS", 0.01)
    with pytest.raises(ExportError, match=r"still running after 0\.01 s of one image"):
        verify_export(weights, ncnn_model, images())


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
    if (key, value) == ("args", "{'quantize': 'no'}"):  # another precision than is known: judged as the coarsest
        assert verify_export(weights, tmp_path / "hostile.onnx", images()).tolerance.precision == "int8"
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


def test_a_report_that_lies_there_is_replaced_and_never_read(weights, onnx_file, tmp_path):
    file = Path(shutil.copy(onnx_file, tmp_path / "mine.onnx"))
    report = tmp_path / "mine.onnx.parity.json"
    report.write_text('{"passed": true, "__import__": "os"', encoding="utf-8")
    saved = verify_export(weights, file, images()).save()
    assert saved == report and json.loads(report.read_text(encoding="utf-8"))["schema"] == 2
