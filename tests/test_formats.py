"""Every format that runs here, task and head: the file of a trained or calibrated model matches, another's does not."""

import collections
import shutil
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
from ela_yolo.parity.images import batches
from ela_yolo.parity.runtimes import RUNTIMES, check_runtime

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"
PHOTOGRAPHS = sorted(ASSETS.glob("*.jpg"))


def images():
    return sorted(SCENES.glob("*.jpg"))[:4]


def needs(name):
    """Skip where what a format needs is not installed; `make exports` installs all of them."""
    try:
        check_runtime(name)
    except ExportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param("onnx opset=12", marks=pytest.mark.nightly),
        "onnx opset=21",
        "onnx half=True",
        "onnx int8=True data=scenes.yaml",
        "onnx nms=True dynamic=True",
        pytest.param("torchscript nms=True", marks=pytest.mark.nightly),
        pytest.param("torchscript dynamic=True", marks=pytest.mark.nightly),
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
    assert RUNTIMES[name][0] in report.runtime

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
    net = model.model
    calibrate_norms(net, next(batches(PHOTOGRAPHS, 3, len(PHOTOGRAPHS), (128, 128)))[1])
    model.ckpt_path = net.pt_path = str(folder / f"{Path(yaml).stem}.pt")
    head = net.model[-1]
    branches = [head.linear] if model.task == "classify" else [*head.cv3, *getattr(head, "one2one_cv3", ())]
    for branch in branches:
        last = branch if model.task == "classify" else branch[-1]
        torch.nn.init.normal_(last.weight, std=0.3)
        torch.nn.init.zeros_(last.bias)
    net.eval()
    return model


EXTRA = {
    "segment": "mask prototypes",
    "pose": "keypoints",
    "obb": "angles",
    "classify": "probabilities",
}


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
    assert EXTRA.get(model.task, "boxes") in [part.name for part in report.outputs]


@pytest.mark.parametrize(
    "name",
    [
        "yolo26n-seg",
        "yolov10n",
        *(pytest.param(f"yolo26n-{task}", marks=pytest.mark.nightly) for task in ("pose", "obb")),
    ],
)
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


@pytest.mark.parametrize("name", ["openvino", "torchscript"])
def test_a_damaged_file_is_one_clear_error(name, retrained, tmp_path):
    needs(name)
    weights = shutil.copy(retrained / "weights/best.pt", tmp_path / "best.pt")
    file = Path(YOLO(weights).export(format=name, imgsz=96))
    largest = max((each for each in [file, *file.rglob("*")] if each.is_file()), key=lambda each: each.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(ExportError, match=r"cannot be run by .*, so export it again"):
        verify_export(weights, file, images())


def test_a_fixed_size_takes_the_form_of_onnx_runtimes_layout_and_free_axes_do_not(retrained, tmp_path):
    model = YOLO(shutil.copy(retrained / "weights/best.pt", tmp_path / "best.pt"))
    kinds = {}
    for dynamic in (False, True):
        nodes = onnx.load(model.export(format="onnx", imgsz=96, dynamic=dynamic)).graph.node
        kinds[dynamic] = [node.op_type for node in nodes]
        # The exporter's copy took the form, not the model that it was given.
        assert [module.graph_form for module in model.model.modules() if isinstance(module, ELA)] == [None] * 4
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
