"""Exported files compared with a really trained detector: true files match, and every wrong one is caught."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import BIN, HOME, forked, forked_python
from helpers import changed
from onnx import helper, numpy_helper
from ultralytics import RTDETR, YOLO

from ela_yolo import ELA, ExportError, InputError, __version__, export, verify_export
from ela_yolo.parity.images import choose_images
from ela_yolo.util.installer import installer

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


def images(count):
    """The first validation scenes; the training rendered them."""
    return sorted(SCENES.glob("*.jpg"))[:count]


def change_weight(model, name, new):
    initializer = next(item for item in model.graph.initializer if name(item))
    array = new(numpy_helper.to_array(initializer).copy())
    initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))


def test_the_command_compares_the_file_and_says_so(exported):
    _, file, printed = exported
    assert "the file matches within the float32 tolerance" in printed
    assert "boxes (px)" in printed and "scores (probability)" in printed
    report = json.loads(file.with_name("best.onnx.parity.json").read_text())
    assert report["passed"] is True and report["failures"] == []
    assert [part["name"] for part in report["outputs"]] == ["boxes", "scores"]
    assert [part["verdict"] for part in report["outputs"]] == ["same", "same"]
    assert all(part["max_error"] <= part["tolerance"] for part in report["outputs"])
    assert len(set(report["images"])) == 2
    assert report["unmatched"] == []
    assert report["runtime"].keys() == {"onnxruntime", "torch", "ultralytics", "ela-yolo"}
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_a_file_of_other_weights_does_not_match(exported, tmp_path):
    """The model itself slightly changed: a file of other weights does not pass for it."""
    weights, file, _ = exported
    model = YOLO(weights)
    with torch.no_grad():
        model.model.model[0].conv.weight[0] *= 1.2
    report = verify_export(model, file, images(3))
    assert not report.passed
    assert "does NOT match: boxes differ by" in str(report)


def exported_wrong(weights, folder, forward, monkeypatch):
    """An export in which ELA computes something else."""
    model = YOLO(shutil.copy(weights, folder / "wrong.pt"))
    monkeypatch.setattr(ELA, "forward", forward)
    file = model.export(format="onnx", imgsz=96)
    monkeypatch.undo()
    return file


def test_swapped_axes_are_caught(exported, tmp_path, monkeypatch):
    """The gate of H laid along W and the other way round, which a square map allows."""
    own = ELA.forward
    file = exported_wrong(
        exported[0], tmp_path, lambda self, x: x * (own(self, y := x.transpose(2, 3)) / y), monkeypatch
    )
    assert verify_export(exported[0], exported[1], images(3)).passed
    report = verify_export(exported[0], file, images(3))
    assert "boxes differ" in str(report) and not report.passed


def with_metadata(file, folder, key, change):
    def edit(model):
        entry = next(entry for entry in model.metadata_props if entry.key == key)
        entry.value = change(entry.value)

    return changed(file, folder, edit)


@pytest.mark.parametrize(
    ("key", "change", "failure"),
    [
        ("names", lambda text: text.replace("cube", "x").replace("ball", "cube").replace("'x'", "'ball'"), "class "),
        ("names", lambda text: text.replace("cube", "Cube"), "'Cube' in the file's metadata and 'cube' in the model"),
        ("stride", lambda text: "16", "the stride is 16 in the file's metadata and 32 in the model"),
        ("ela", lambda text: text.replace('"paper"', '"identity"', 1), "the ELA blocks in the file's metadata"),
    ],
    ids=["classes in another order", "another name", "another stride", "another gate"],
)
def test_metadata_of_another_model_is_caught(key, change, failure, exported, tmp_path):
    weights, file, _ = exported
    report = verify_export(weights, with_metadata(file, tmp_path, key, change), images(3))
    assert not report.passed and len(report.failures) == 1
    assert failure in report.failures[0]


def test_metadata_tells_the_blocks(exported):
    told = json.loads({entry.key: entry.value for entry in onnx.load(exported[1]).metadata_props}["ela"])
    assert told["version"] == __version__
    assert [block["layer"] for block in told["blocks"]] == ["3", "6", "9", "12"]
    assert told["blocks"][0] == {
        "layer": "3",
        "variant": "B",
        "gate": "paper",
        "channels": 32,
        "kernel_size": 7,
        "groups": 32,
        "num_groups": 16,
        "lr_mult": 1,
    }


def test_verify_compares_a_file_made_elsewhere(exported, tmp_path):
    weights, file, _ = exported
    mine = shutil.copy(file, tmp_path / "mine.onnx")
    command = [BIN / "ela-yolo", "verify", f"model={weights}", f"against={mine}", "data=scenes.yaml"]
    done = forked(*command, cwd=tmp_path)
    assert "the file matches within the float32 tolerance" in done.stdout
    report = json.loads((tmp_path / "mine.onnx.parity.json").read_text())
    assert len(report["images"]) == 16
    name, of_model, of_file = report["scores"]
    assert name == "mAP50-95(B)" and of_model == pytest.approx(of_file, abs=1e-4)


def test_a_gate_that_lost_its_weights_is_caught(exported, tmp_path):
    weights, file, _ = exported
    strips = YOLO(weights).model.model[12].conv.weight.flatten()

    def is_its_own(item):  # the export names it by number, once for each direction
        array = numpy_helper.to_array(item)
        return array.size == strips.numel() and np.allclose(array.ravel(), strips.detach().numpy())

    wrong = changed(file, tmp_path, lambda m: change_weight(m, is_its_own, np.zeros_like))
    assert not verify_export(weights, wrong, images(3)).passed


def test_equal_outputs_for_different_images_do_not_match(exported, tmp_path):
    """File and model agree to the last digit here, because neither looks at the image."""
    weights, _, _ = exported
    model = YOLO(weights)
    with torch.no_grad():
        model.model.model[0].conv.weight.zero_()
    model.ckpt_path = model.model.pt_path = str(tmp_path / "blind.pt")
    file = model.export(format="onnx", imgsz=96)
    report = verify_export(model, file, images(3))
    assert max(part.max_error for part in report.outputs) < 0.01
    assert not report.passed
    assert "too alike" in [part.verdict for part in report.outputs]


def test_a_model_that_was_never_trained_does_not_match(tmp_path):
    done = forked(
        BIN / "ela-yolo", "export", "model=yolov8n-ela.yaml", "format=onnx", "imgsz=64", cwd=tmp_path, ok=False
    )
    assert done.returncode == 1
    assert "show nothing; train the model first" in done.stdout


def after_output(model, *nodes):
    """Put nodes between what a graph computes and its output; they read `raw` and write the output's name."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = "raw"
    model.graph.node.extend(nodes)


def constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def test_a_batch_in_which_images_are_mixed_up_is_caught(retrained, tmp_path):
    model = YOLO(shutil.copy(retrained / "weights/best.pt", tmp_path))
    file = model.export(format="onnx", imgsz=96, batch=3)
    assert verify_export(model, file, images(4)).passed

    def first_for_all(graph):
        output = graph.graph.output[0].name
        zeros = constant(graph, "zeros", np.zeros(3, np.int64))
        after_output(graph, helper.make_node("Gather", ["raw", zeros], [output], axis=0))

    assert not verify_export(model, changed(file, tmp_path, first_for_all), images(4)).passed


def test_a_dynamic_file_that_is_right_at_one_size_only_is_caught(retrained, tmp_path):
    model = YOLO(shutil.copy(retrained / "weights/best.pt", tmp_path))
    file = model.export(format="onnx", imgsz=96, dynamic=True)
    report = verify_export(model, file, images(3))
    assert report.passed, str(report)
    assert {batch for batch, _, _ in report.inputs} == {1, 2, 3}
    assert len({part.shape for part in report.outputs if part.name == "boxes"}) == 4

    def zero_elsewhere(graph):
        output, image = graph.graph.output[0].name, graph.graph.input[0].name
        after_output(
            graph,
            helper.make_node("Shape", [image], ["shape"]),
            helper.make_node("Gather", ["shape", constant(graph, "three", np.int64(3))], ["width"]),
            helper.make_node("Equal", ["width", constant(graph, "traced", np.int64(96))], ["is_traced"]),
            helper.make_node("Cast", ["is_traced"], ["factor"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["raw", "factor"], [output]),
        )

    assert not verify_export(model, changed(file, tmp_path, zero_elsewhere), images(3)).passed


def test_a_file_without_metadata_is_one_clear_error(exported, tmp_path):
    weights, file, _ = exported
    bare = changed(file, tmp_path, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(ExportError, match="has no Ultralytics metadata"):
        verify_export(weights, bare, images(2))


def test_an_export_of_another_model_is_one_clear_error(exported, tmp_path):
    _, file, _ = exported
    with pytest.raises(ExportError, match="export of another model"):
        verify_export(YOLO("yolov8n.yaml"), file, images(2))


def test_a_file_that_is_not_square_matches_and_its_map_is_not_compared(exported, tmp_path):
    """Ultralytics would validate the model at 160x160 px, and the file at 96x160 px or not at all."""
    weights = shutil.copy(exported[0], tmp_path / "best.pt")
    keys = ["format=onnx", "imgsz=96,160", "simplify=False", "data=scenes.yaml"]
    done = forked(BIN / "ela-yolo", "export", f"model={weights}", *keys, cwd=tmp_path)
    report = json.loads((tmp_path / "best.onnx.parity.json").read_text())
    assert report["passed"] and report["inputs"] == [[1, 96, 160]] and report["scores"] is None
    assert report["notes"][0] in done.stdout and "96x160 px" in report["notes"][0]


def test_models_that_cannot_be_compared_are_refused_before_they_are_exported(exported):
    model: Any = RTDETR("rtdetr-l.yaml")
    for call in (lambda: export(model), lambda: verify_export(model, exported[1])):
        with pytest.raises(ExportError, match=r"^a model with the head RTDETRDecoder cannot be compared here; [^\n]*$"):
            call()
    with pytest.raises(ExportError, match="format=paddle cannot be compared here; add verify=False"):
        export(YOLO("yolov8n.yaml"), format="paddle")


def test_objects_that_are_no_model_are_one_clear_line(exported):
    others: list[Any] = [torch.nn.Conv2d(3, 8, 1), YOLO("yolov8n.yaml").model, None]
    for each in others:
        with pytest.raises(InputError, match=f"not a {type(each).__name__} object$"):
            verify_export(each, exported[1])


@pytest.mark.parametrize("model", [lambda file: file, lambda file: YOLO(file, task="detect")], ids=["file", "object"])
def test_swapped_arguments_are_named(model, exported, tmp_path):
    weights, file, _ = exported
    swapped: Any
    for swapped in (weights, str(weights), YOLO(weights)):
        with pytest.raises(InputError, match=r"best\.onnx is an exported file and .*best\.pt a model; swap the two"):
            verify_export(model(file), swapped)
    for call in (lambda: verify_export(model(file), file), lambda: export(model(file))):
        with pytest.raises(InputError, match=r"best\.onnx is an exported file; name the checkpoint"):
            call()


def test_verify_false_skips_the_comparison_and_leaves_no_older_report(exported, tmp_path):
    weights = shutil.copy(exported[0], tmp_path / "best.pt")
    stale = tmp_path / "best.onnx.parity.json"
    stale.write_text('{"passed": true}')
    done = forked(
        BIN / "ela-yolo", "export", f"model={weights}", "format=onnx", "imgsz=96", "verify=False", cwd=tmp_path
    )
    assert (tmp_path / "best.onnx").exists()
    assert "matches" not in done.stdout
    assert not stale.exists()


def test_images_are_found_by_folder_and_by_pattern():
    assert len(choose_images(str(SCENES), None, "detect")) == 64
    assert len(choose_images(f"{SCENES}/000*.jpg", None, "detect")) == 10
    for source in ("no/such/folder", f"{SCENES}/0000.jpg", images(1) * 2):
        with pytest.raises(ExportError, match="name at least two different ones"):
            choose_images(source, None, "detect")


def test_onnx_missing_is_found_out_before_the_export(tmp_path):
    code = """
import sys
sys.modules["onnxslim"] = None
import importlib.util
from ela_yolo.parity.runtimes import check_runtime
try: check_runtime("onnx")
except Exception as error: print(type(error).__name__, error)
"""
    printed = forked_python(code, cwd=tmp_path).stdout
    told = f"exporting to onnx and comparing the file needs onnxslim: {installer('install', 'onnxslim')}"
    assert printed == f"ExportError {told}\n"


def test_the_same_in_python(retrained, tmp_path):
    best = shutil.copy(retrained / "weights/best.pt", tmp_path)
    report = export(best, format="onnx", imgsz=96)
    assert report.passed and Path(report.exported) == tmp_path / "best.onnx" and Path(report.exported).is_file()
    with pytest.raises(InputError, match="format=onxx is not a format of"):
        export(best, format="onxx")
