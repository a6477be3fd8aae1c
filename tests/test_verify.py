"""What the comparison of a file reports: values that are not finite, settings of NMS, mAP, images of one channel."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import HOME, RUN, once
from helpers import calibrate_norms, changed
from onnx import helper, numpy_helper
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ASSETS

from ela_yolo import verify_export
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.exported_file import ExportedFile
from ela_yolo.parity.images import batches, network_input, read_image
from ela_yolo.parity.precision import stored_bits

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"
PHOTOGRAPHS = sorted(ASSETS.glob("*.jpg"))


def scenes(count):
    """The first validation scenes; the training rendered them."""
    return sorted(SCENES.glob("*.jpg"))[:count]


@pytest.fixture(scope="module")
def weights(sure):
    return sure


@pytest.fixture(scope="module")
def exported(sure):
    once("sure-exported", lambda folder: YOLO(shutil.copy(sure, folder)).export(format="onnx", imgsz=96))
    return RUN / "sure-exported/sure.onnx"


def poisoned_where_bright(value, at_least):
    """Give one value of the output in place of the right one, for images brighter on average than ``at_least``."""

    def change(model):
        graph, output, image = model.graph, model.graph.output[0].name, model.graph.input[0].name
        for node in graph.node:
            node.output[:] = ["raw" if name == output else name for name in node.output]
        shape = [entry.dim_value for entry in graph.output[0].type.tensor_type.shape.dim]
        poison = np.zeros(shape, np.float32)
        poison[0, 2, 7] = value  # one width
        graph.initializer.extend(
            [
                numpy_helper.from_array(poison, "poison"),
                numpy_helper.from_array(np.array(at_least, np.float32), "at_least"),
                numpy_helper.from_array(np.zeros(shape, np.float32), "nothing"),
            ]
        )
        graph.node.extend(
            [
                helper.make_node("ReduceMean", [image], ["brightness"], keepdims=0),
                helper.make_node("Greater", ["brightness", "at_least"], ["is_bright"]),
                helper.make_node("Where", ["is_bright", "poison", "nothing"], ["added"]),
                helper.make_node("Add", ["raw", "added"], [output]),
            ]
        )

    return change


@pytest.mark.parametrize(("value", "order"), [(np.nan, 1), (np.nan, -1), (np.inf, 1), (-np.inf, -1)])
def test_one_value_of_one_image_that_is_not_finite_fails(value, order, weights, exported, tmp_path):
    *ranked, brightest = sorted(scenes(5), key=brightness)
    limit = (brightness(ranked[-1]) + brightness(brightest)) / 2
    file = changed(exported, tmp_path, poisoned_where_bright(value, limit))
    report = verify_export(weights, file, [*ranked, brightest][::order])
    (line,) = report.nonfinite
    assert not report.passed and line in report.verdict
    assert line.startswith("the file gives 1 of ") and line.endswith(str(brightest))
    saved = json.loads(report.save().read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert saved["schema"] == 2 and saved["nonfinite"] == [line] and saved["passed"] is False


def brightness(file):
    return float(network_input(read_image(file, 3), (96, 96)).mean())


def test_a_model_that_gives_nan_itself_is_named(weights, exported):
    model = YOLO(weights)
    with torch.no_grad():
        model.model.model[0].conv.weight.fill_(torch.nan)
    report = verify_export(model, exported, scenes(2))
    assert not report.passed and all(line.startswith("the model gives") for line in report.nonfinite)
    assert {part.verdict for part in report.outputs} == {"not finite"}


@pytest.mark.parametrize("settings", [{"conf": 0.4, "iou": 0.35, "agnostic_nms": True, "max_det": 40}, {"iou": 0}])
def test_nms_in_the_file_is_checked_with_what_it_was_exported_with(settings, weights, tmp_path):
    model = YOLO(shutil.copy(weights, tmp_path / "best.pt"))
    file, report = export_and_compare(model, {"format": "onnx", "imgsz": 96, "nms": True, **settings}, scenes(6))
    assert report.passed, str(report)
    assert {key: getattr(report.nms, key) for key in settings} == settings
    again = verify_export(model, file, scenes(6))  # by the metadata
    assert again.passed and again.nms == report.nms

    def tell_another(graph):
        entry = next(entry for entry in graph.metadata_props if entry.key == "ela")
        told = json.loads(entry.value)
        told["nms"] |= {"iou": 0.9, "conf": 0.05}
        entry.value = json.dumps(told)

    other = verify_export(model, changed(file, tmp_path, tell_another), scenes(6))
    assert not other.passed and other.nms.max_det == report.nms.max_det


@pytest.mark.parametrize("overrides", [{"agnostic_nms": True}, pytest.param({"max_det": 1}, marks=pytest.mark.nightly)])
def test_end_to_end_files_are_checked_with_what_they_were_exported_with(overrides, tmp_path):
    """Without NMS these keys shape the list that such a head gives; a plain model's file has no entry about them."""
    for name in ("yolo26n-ela.yaml", "yolo26n.yaml"):
        model = YOLO(name)
        calibrate(model, PHOTOGRAPHS)
        model.ckpt_path = model.model.pt_path = str(tmp_path / f"{name[:-5]}.pt")
        keys = {"format": "onnx", "imgsz": 96, "end2end": True, **overrides}
        _, report = export_and_compare(model, keys, PHOTOGRAPHS)
        assert report.unmatched == () and report.detections > 0, str(report)
        assert report.passed or "max_det" in overrides  # the one best score may be the same for both photographs


def calibrate(model, images, channels=3):
    """Give BatchNorm the statistics of some images, and the head weights that tell places apart."""
    torch.manual_seed(0)
    net = model.model
    calibrate_norms(net, next(batches(images, channels, len(images), (96, 96)))[1])
    head = net.model[-1]
    for branch in (*head.cv3, *getattr(head, "one2one_cv3", ())):
        torch.nn.init.normal_(branch[-1].weight, std=0.1)
        torch.nn.init.zeros_(branch[-1].bias)
    net.eval()


def test_both_branches_of_a_head_are_validated_as_the_file_has_them(tmp_path):
    """The labels are detections of the end-to-end branch, so the two branches differ in mAP."""
    torch.manual_seed(0)
    model = YOLO("yolo26n-ela.yaml")
    calibrate(model, PHOTOGRAPHS)
    head = model.model.model[-1]
    for branch in (*head.cv2, *head.one2one_cv2):  # boxes of the same size everywhere, so most lie inside the image
        torch.nn.init.zeros_(branch[-1].weight)
        torch.nn.init.ones_(branch[-1].bias)
    model.ckpt_path = model.model.pt_path = str(tmp_path / "two.pt")
    file = model.export(format="onnx", imgsz=96, end2end=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for image in scenes(4):
        shutil.copy(image, tmp_path / "images")
        (found,) = YOLO(file, task="detect").predict(image, imgsz=96, conf=0.001, max_det=5, verbose=False)
        rows = torch.cat([found.boxes.cls[:, None].cpu(), found.boxes.xywhn.cpu()], 1).tolist()
        lines = [f"{int(kind)} {' '.join(map(str, box))}" for kind, *box in rows]
        (tmp_path / f"labels/{image.stem}.txt").write_text("\n".join(lines), encoding="utf-8")
    data = {"path": str(tmp_path), "train": "images", "val": "images", "names": model.names}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    _, of_model, of_file = verify_export(model, file, data=str(tmp_path / "data.yaml")).scores
    assert of_file > 0.02 and of_model == pytest.approx(of_file, abs=1e-3)


def test_an_image_for_which_a_file_is_full_of_nonsense_fails(weights, tmp_path, monkeypatch):
    model = YOLO(shutil.copy(weights, tmp_path / "best.pt"))
    file = model.export(format="onnx", imgsz=96, nms=True)
    own, calls = ExportedFile.run, iter(range(99))

    def run_wrongly(self, batch):
        outputs = own(self, batch)
        if next(calls) == 1:
            outputs[0][:] = torch.tensor([1.0, 2, 60, 70, 0.9999, 3])
        return outputs

    monkeypatch.setattr(ExportedFile, "run", run_wrongly)
    report = verify_export(model, file, scenes(4))
    assert not report.passed and "have no counterpart" in report.verdict


def test_one_channel_models_are_compared_too(tmp_path):
    """Grey images in, as Ultralytics reads them for such a model."""
    model = YOLO("yolov8n-ela.yaml")
    grey = DetectionModel("yolov8n-ela.yaml", ch=1, verbose=False)  # as training on `channels: 1` builds it
    grey.args, grey.task, model.model = model.model.args, "detect", grey
    calibrate(model, scenes(4), channels=1)
    model.ckpt_path = grey.pt_path = str(tmp_path / "grey.pt")
    _, report = export_and_compare(model, {"format": "onnx", "imgsz": 96}, scenes(4))
    assert report.passed, str(report)
    assert report.detections > 0


@pytest.fixture(scope="module")
def halved(exported, tmp_path_factory):
    """The file as another tool converts it to float16, which keeps the metadata."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(onnx.load(exported), keep_io_types=True))
    half.topological_sort()
    file = tmp_path_factory.mktemp("half") / "half.onnx"
    half.save_model_to_file(str(file))
    return file


def test_the_precision_is_that_of_the_tensors_and_not_of_the_metadata(weights, halved):
    report = verify_export(weights, halved, scenes(2))
    assert report.tolerance.precision == "float16"
    assert "the file's metadata says float32, and most of its weights are float16, which counts" in str(report)


@pytest.mark.parametrize(
    ("name", "keys"), [("onnx", {}), ("torchscript", {}), ("openvino", {}), ("openvino", {"half": True})]
)
def test_the_bits_of_a_file(name, keys, weights, tmp_path):
    file = YOLO(shutil.copy(weights, tmp_path)).export(format=name, imgsz=64, **keys)
    assert stored_bits(Path(file), name, parameters=1) == (16 if keys else 32)


def test_eight_bits_are_found(exported, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(exported, tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)
    assert stored_bits(tmp_path / "int8.onnx", "onnx", parameters=1) == 8


@pytest.mark.parametrize(("size", "bits"), [(4.1, 32), (3.4, 32), (2.1, 16), (1.7, 16), (1.2, 8)])
def test_the_size_of_a_file_whose_tensors_are_not_read_says_its_bits(size, bits, tmp_path):
    (tmp_path / "file_ncnn_model").mkdir()
    (tmp_path / "file_ncnn_model/model.bin").write_bytes(bytes(int(1000 * size)))
    assert stored_bits(tmp_path / "file_ncnn_model", "ncnn", parameters=1000) == bits


def test_what_each_side_has_alone_is_counted_apart(weights, exported):
    report = verify_export(weights, exported, scenes(2))
    extra = replace(report, unmatched=("only the model has", *["only the file has"] * 9), extra=9, detections=4)
    assert (
        "does NOT match: 1 of 4 have no counterpart in the file, and 9 that the file has in addition" in extra.verdict
    )
