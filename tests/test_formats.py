"""Every format that runs here, task and head: the file of a trained or calibrated model matches, another's does not."""

import collections
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import torch
import ultralytics
from conftest import HOME
from helpers import calibrate_norms, of_family
from ultralytics import YOLO
from ultralytics.utils import ASSETS
from ultralytics.utils.checks import check_version

import ela_yolo
from ela_yolo import ELA, ExportError, verify_export
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.images import network_input, packaged_photographs
from ela_yolo.parity.runtimes import RUNTIMES

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"
PHOTOGRAPHS = sorted(ASSETS.glob("*.jpg"))


def images():
    return sorted(SCENES.glob("*.jpg"))[:4]


def needs(name):
    """Skip where what a format needs is not installed; `make exports` installs all of them."""
    runtime = RUNTIMES[name]
    missing = [package for module, package in (runtime.runs, *runtime.exports) if find_spec(module) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}")


@pytest.mark.parametrize(
    "keys",
    [
        "onnx opset=12",
        "onnx opset=20",
        "onnx opset=21",
        "onnx simplify=False",
        "onnx half=True",
        "onnx int8=True data=scenes.yaml",
        "onnx nms=True",
        "onnx nms=True dynamic=True",
        "torchscript",
        "torchscript nms=True",
        "torchscript dynamic=True",
        "openvino",
        pytest.param("openvino dynamic=True", marks=pytest.mark.nightly),
        pytest.param("openvino half=True", marks=pytest.mark.nightly),
        "ncnn",
        pytest.param("ncnn half=True", marks=pytest.mark.nightly),
    ],
)
def test_a_file_matches_and_that_of_other_weights_does_not(keys, sure, tmp_path):
    name, *options = keys.split()
    needs(name)
    values = {"True": True, "False": False}
    overrides = {key: values.get(value, value) for key, value in (option.split("=") for option in options)}
    if "opset" in overrides:
        overrides["opset"] = int(overrides["opset"])
    model = YOLO(shutil.copy(sure, tmp_path / "best.pt"))
    file, report = export_and_compare(model, {"format": name, "imgsz": 96, **overrides}, images())
    assert report.passed, str(report)
    assert report.tolerance.precision == ("float16" if "half" in keys else "int8" if "int8" in keys else "float32")
    assert RUNTIMES[name].runs[1] in report.runtime

    changed = YOLO(tmp_path / "best.pt")
    with torch.no_grad():
        for block in changed.model.modules():
            if isinstance(block, ELA):
                block.gn.bias += 3
    wrong = verify_export(changed, file, images())
    assert not wrong.passed, str(wrong)


def calibrated(yaml, folder):
    """Random weights with BatchNorm calibrated on photographs, so that outputs depend on the image."""
    torch.manual_seed(0)
    model = YOLO(yaml)
    batch = torch.cat([network_input(picture, (128, 128)) for picture in packaged_photographs().values()])
    net = model.model
    calibrate_norms(net, batch)
    model.ckpt_path = net.pt_path = str(folder / f"{Path(yaml).stem}.pt")
    head = net.model[-1]
    last_layers = {"classify": lambda: [head.linear], "semantic": lambda: [head.classifier[-1]], "depth": lambda: []}
    of_boxes = lambda: [branch[-1] for branch in (*head.cv3, *getattr(head, "one2one_cv3", ()))]  # noqa: E731
    heads = last_layers.get(str(model.task), of_boxes)()
    for last in heads:
        torch.nn.init.normal_(last.weight, std=0.3)
        if model.task == "semantic":  # else one class wins everywhere, for what all channels have in common
            last.weight.data -= last.weight.data.mean(1, keepdim=True)
        torch.nn.init.zeros_(last.bias)
    net.eval()
    return model


EXTRA = {
    "segment": "mask prototypes",
    "semantic": "class map",
    "depth": "depth",
    "pose": "keypoints",
    "obb": "angles",
    "classify": "probabilities",
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yolo26n-sem", "onnx"),
        ("yolo26n-sem", "onnx half=True"),
        ("yolo26n-sem", "torchscript"),
        ("yolo26n-depth", "onnx half=True"),
        pytest.param("yolo26n-depth", "openvino", marks=pytest.mark.nightly),
    ],
)
def test_maps_of_classes_and_of_depths(name, options, tmp_path):
    """Files hold the class of each pixel, or its logits; the depth of each pixel; enlarged to the image."""
    kind, *half = options.split()
    needs(kind)
    ela_yolo.insert(f"{name}.yaml", gate="paper", save=tmp_path / f"{name}-ela.yaml")
    model = calibrated(str(tmp_path / f"{name}-ela.yaml"), tmp_path)
    overrides = {"format": kind, "imgsz": 96, **({"half": True} if half else {})}
    file, report = export_and_compare(model, overrides, PHOTOGRAPHS)
    assert report.passed, str(report)
    assert report.detections is None and "detections" not in str(report)
    parts = {"sem": ["class map"] if kind != "torchscript" else ["logits", "class map"], "depth": ["depth"]}
    assert [part.name for part in report.outputs] == parts[name.partition("-")[2]]

    with torch.no_grad():
        for block in model.model.modules():
            if isinstance(block, ELA):
                block.gn.bias += 3
    wrong = verify_export(model, file, PHOTOGRAPHS)
    assert not wrong.passed, str(wrong)


@pytest.mark.parametrize(
    "name",
    [*map(of_family, ("yolov8n-ela-seg", "yolov8n-ela-pose", "yolov8n-ela-obb", "yolov8n-ela-cls", "yolo26n-ela"))],
)
def test_every_task(name, tmp_path):
    model = calibrated(f"{name}.yaml", tmp_path)
    before = name.startswith("yolo26") and check_version(ultralytics.__version__, ">=8.4.8,<8.4.178")
    plain = {"end2end": False} if before else {}
    file = model.export(format="onnx", imgsz=96, **plain)
    report = verify_export(model, file, PHOTOGRAPHS)
    assert report.passed, str(report)
    assert (report.detections is None) == (model.task in ("semantic", "depth"))
    assert EXTRA.get(model.task, "boxes") in [part.name for part in report.outputs]


@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolov10n"])
def test_end_to_end_heads(name, tmp_path):
    ela_yolo.insert(f"{name}.yaml", gate="paper", save=tmp_path / f"{name}-ela.yaml")
    model = calibrated(str(tmp_path / f"{name}-ela.yaml"), tmp_path)
    file = model.export(format="onnx", imgsz=96, end2end=True)
    report = verify_export(model, file, PHOTOGRAPHS)
    assert report.passed, str(report)
    assert report.outputs[1].shape[1:] == (1,)  # one score a detection

    with torch.no_grad():
        model.model.model[3].gn.bias += 3
    assert not verify_export(model, file, PHOTOGRAPHS).passed


@pytest.mark.parametrize("name", ["openvino", "ncnn", "torchscript"])
def test_a_damaged_file_is_one_clear_error(name, retrained, tmp_path):
    needs(name)
    weights = shutil.copy(retrained / "weights/best.pt", tmp_path / "best.pt")
    file = Path(YOLO(weights).export(format=name, imgsz=96))
    largest = max((each for each in [file, *file.rglob("*")] if each.is_file()), key=lambda each: each.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(ExportError, match=r"cannot be run by .*, so export it again|lacks Ultralytics' metadata"):
        verify_export(weights, file, images())


def test_a_fixed_size_takes_the_form_of_onnx_runtimes_layout_and_free_axes_do_not(retrained, tmp_path):
    model = YOLO(shutil.copy(retrained / "weights/best.pt", tmp_path / "best.pt"))
    kinds = {}
    for dynamic in (False, True):
        nodes = onnx.load(model.export(format="onnx", imgsz=96, dynamic=dynamic)).graph.node
        kinds[dynamic] = [node.op_type for node in nodes]
        # The exporter's copy took the form, not the model that it was given.
        assert [module.export_form for module in model.model.modules() if isinstance(module, ELA)] == [None] * 4
    assert kinds[False].count("AveragePool") == 8 and "ReduceMean" not in kinds[False]
    assert kinds[True].count("ReduceMean") == 8 and "AveragePool" not in kinds[True]


def test_openvino_gets_pools_and_one_convolution_for_both_strips(retrained, tmp_path):
    import openvino

    model = YOLO(shutil.copy(retrained / "weights/best.pt", tmp_path / "best.pt"))
    counts = {}
    for size in (96, (96, 64)):
        folder = Path(model.export(format="openvino", imgsz=size))
        graph = openvino.Core().read_model(next(folder.glob("*.xml")))
        counts[size] = collections.Counter(node.get_type_name() for node in graph.get_ops())
    assert counts[96]["AvgPool"] == counts[96, 64]["AvgPool"] == 8
    assert counts[96]["GroupConvolution"] == 4 and "ReduceMean" not in counts[96]
    assert counts[96, 64]["GroupConvolution"] == 16  # two strips, each with its norm's scale and shift


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs there")
def test_core_ml_is_refused_where_it_does_not_run():
    with pytest.raises(ExportError, match="Core ML runs on macOS alone"):
        export_and_compare(YOLO("yolov8n-ela.yaml"), {"format": "coreml"})
