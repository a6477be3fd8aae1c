"""What the comparison of a file reports: values that are not finite, settings of NMS, layers, digests."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import BIN, HOME, RUN, forked, once
from helpers import calibrate_norms, changed
from onnx import helper, numpy_helper
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ASSETS

import ela_yolo
from ela_yolo import InputError, verify_export
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.images import Images, batches, network_input
from ela_yolo.parity.runtimes import ExportedFile
from ela_yolo.parity.verify import _sha256

SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("order", [1, -1])
def test_one_value_of_one_image_that_is_not_finite_fails(value, order, weights, exported, tmp_path):
    *ranked, brightest = sorted(scenes(5), key=brightness)
    limit = (brightness(ranked[-1]) + brightness(brightest)) / 2
    ranked = [*ranked, brightest][::order]
    file = changed(exported, tmp_path, poisoned_where_bright(value, limit))
    report = verify_export(weights, file, ranked)
    assert not report.passed
    assert [(each.image, each.side, each.values) for each in report.nonfinite] == [(str(brightest), "file", 1)]
    assert f"the file alone gives 1 of {report.nonfinite[0].of} values that are not finite" in report.verdict
    assert str(brightest) in report.verdict
    saved = json.loads(report.save().read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert saved["schema"] == 1 and saved["nonfinite"][0]["values"] == 1 and saved["passed"] is False


def brightness(file):
    return float(network_input(Images.of_files(scenes(5))[str(file)], (96, 96)).mean())


def test_a_model_that_gives_nan_itself_is_named(weights, exported):
    model = YOLO(weights)
    with torch.no_grad():
        model.model.model[0].conv.weight.fill_(torch.nan)
    report = verify_export(model, exported, scenes(2))
    assert not report.passed and "the model itself gives" in report.verdict


SETTINGS = {"conf": 0.4, "iou": 0.35, "agnostic_nms": True, "max_det": 40}


def test_nms_in_the_file_is_checked_with_what_it_was_exported_with(weights, tmp_path):
    model = YOLO(shutil.copy(weights, tmp_path / "best.pt"))
    file, report = export_and_compare(model, {"format": "onnx", "imgsz": 96, "nms": True, **SETTINGS}, scenes(6))
    assert report.passed, str(report)
    assert "NMS in the file: conf 0.4, iou 0.35, of all classes together, 40 detections at most" in str(report)
    assert f"detections above 0.4: {report.detections}, 0 without" in str(report)
    # Made by `yolo export`, the file tells by its metadata ...
    again = verify_export(model, file, scenes(6))
    assert again.passed and again.nms == report.nms
    # ... and what is given goes before that, and is then not what the file does.
    other = verify_export(model, file, scenes(6), nms={"agnostic_nms": False, "iou": 0.9, "conf": 0.05})
    assert not other.passed and other.nms.max_det == 40


@pytest.mark.parametrize("overrides", [{"agnostic_nms": True}, {"max_det": 1}])
def test_end_to_end_files_are_checked_with_what_they_were_exported_with(overrides, tmp_path):
    """Without NMS these keys shape the list that such a head gives; a plain model's file tells nothing of them."""
    for name in ("yolo26n-ela.yaml", "yolo26n.yaml"):
        model = YOLO(name)
        calibrate(model, Images.of_files(sorted(ASSETS.glob("*.jpg"))))
        model.ckpt_path = model.model.pt_path = str(tmp_path / f"{name[:-5]}.pt")
        keys = {"format": "onnx", "imgsz": 96, "end2end": True, **overrides}
        file, report = export_and_compare(model, keys, sorted(ASSETS.glob("*.jpg")))
        assert report.unmatched == () and report.detections > 0, str(report)
        assert report.passed or "max_det" in overrides  # the one best score may be the same for both photographs
    if "agnostic_nms" in overrides:
        assert not verify_export(model, file, sorted(ASSETS.glob("*.jpg"))).passed  # False is the default
        assert verify_export(model, file, sorted(ASSETS.glob("*.jpg")), nms=overrides).passed


def calibrate(model, images):
    """Give BatchNorm the statistics of some images, and the head weights that tell places apart."""
    torch.manual_seed(0)
    net = model.model
    calibrate_norms(net, next(batches(images, len(images), (96, 96))))
    head = net.model[-1]
    for branch in (*head.cv3, *getattr(head, "one2one_cv3", ())):
        torch.nn.init.normal_(branch[-1].weight, std=0.1)
        torch.nn.init.zeros_(branch[-1].bias)
    net.eval()


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


def test_free_axes_of_a_model_of_stride_64(tmp_path):
    ela_yolo.insert("yolov8n-p6.yaml", save=tmp_path / "yolov8-p6x.yaml")
    model = YOLO(tmp_path / "yolov8n-p6x.yaml")
    model.ckpt_path = model.model.pt_path = str(tmp_path / "p6.pt")
    _, report = export_and_compare(
        model, {"format": "onnx", "imgsz": 128, "dynamic": True}, sorted(ASSETS.glob("*.jpg"))
    )
    assert {(height, width) for _, height, width in report.inputs} == {(128, 128), (256, 192), (128, 256), (192, 128)}


@pytest.mark.parametrize(("key", "default"), [("conf", 0.25), ("iou", 0.7)])
def test_nms_settings_of_zero_are_values(key, default, weights, tmp_path):
    model = YOLO(shutil.copy(weights, tmp_path / "best.pt"))
    file, report = export_and_compare(model, {"format": "onnx", "imgsz": 96, "nms": True, key: 0}, scenes(4))
    assert report.passed, str(report)
    assert getattr(report.nms, key) == 0 and f"{key} 0," in str(report)
    other = verify_export(model, file, scenes(4), nms={key: default})
    assert other.detections != report.detections and (key == "conf" or not other.passed)


def test_a_file_that_tells_nothing_of_its_nms_is_checked_by_the_keys(weights, tmp_path):
    model = YOLO(shutil.copy(weights, tmp_path / "best.pt"))
    file = model.export(format="onnx", imgsz=96, nms=True, iou=0.3)

    def silence(graph):
        del graph.metadata_props[[entry.key for entry in graph.metadata_props].index("ela")]

    silent = changed(file, tmp_path, silence)
    assert not verify_export(model, silent, scenes(6)).passed  # 0.7 is the default
    assert verify_export(model, silent, scenes(6), nms={"iou": 0.3}).passed
    command = [BIN / "ela-yolo", "verify", "model=best.pt", f"against={silent}", "iou=0.3", f"source={SCENES}/000*"]
    assert "NMS in the file: conf 0.25, iou 0.3, class by class" in forked(*command, cwd=tmp_path).stdout


def test_keys_of_nms_that_have_no_effect_are_refused(weights, exported, tmp_path):
    with pytest.raises(InputError, match="has no NMS in it, so conf has no effect; leave it out"):
        verify_export(weights, exported, scenes(2), nms={"conf": 0.5})
    with pytest.raises(InputError, match="nms has no key 'iuo', did you mean 'iou'"):
        verify_export(weights, exported, scenes(2), nms={"iuo": 0.5})


def test_data_may_be_a_list_beside_its_images(weights, exported, tmp_path):
    """As COCO has it: ``val: val.txt`` with ``./`` names, blanks in them, and a byte order mark."""
    names = [f"images/scene {number}.jpg" for number in range(3)]
    for name, file in zip(names, scenes(3), strict=True):
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/labels").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "data" / name)
        label = file.parents[2] / "labels/val" / f"{file.stem}.txt"
        shutil.copy(label, tmp_path / "data/labels" / f"{name[7:-4]}.txt")
    (tmp_path / "data/val.txt").write_text("\n".join(f"./{name}" for name in names), encoding="utf-8-sig")
    content = {"path": str(tmp_path / "data"), "train": "val.txt", "val": "val.txt", "names": YOLO(weights).names}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [BIN / "ela-yolo", "verify", f"model={weights}", f"against={exported}", "data=data.yaml"]
    done = forked(*command, cwd=tmp_path)
    assert "3 images" in done.stdout and "mAP50-95(B): 0." in done.stdout
    assert "the file matches within the float32 tolerance" in done.stdout


def test_the_digest_of_a_folder_holds_the_names_of_its_files(tmp_path):
    digests = set()
    for names in (("a", "b"), ("b", "a"), ("a", "c"), ("ab", "")):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name, content in zip(names, ("first", "second"), strict=True):
            if name:
                (folder / name).write_text(content, encoding="utf-8")
        digests.add(_sha256(folder))
    assert len(digests) == 4


def test_images_are_held_one_at_a_time(weights):
    """A folder of photographs is not decoded at once: nothing of a picture stays when it was used."""
    import gc
    import weakref

    images = Images.of_files(scenes(3))
    picture = images[str(scenes(1)[0])]
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    seen = weakref.ref(picture.base if picture.base is not None else picture)
    del picture
    gc.collect()
    assert seen() is None
    assert all(not isinstance(value, np.ndarray) for value in vars(images).values())


def test_one_channel_models_are_compared_too(weights, tmp_path):
    """Grey images in, as Ultralytics reads them for such a model."""
    model = YOLO("yolov8n-ela.yaml")
    grey = DetectionModel("yolov8n-ela.yaml", ch=1, verbose=False)  # as training on `channels: 1` builds it
    grey.args, grey.task, model.model = model.model.args, "detect", grey
    images = Images.of_files(scenes(4), channels=1)
    calibrate(model, images)
    model.ckpt_path = grey.pt_path = str(tmp_path / "grey.pt")
    _, report = export_and_compare(model, {"format": "onnx", "imgsz": 96}, scenes(4))
    assert report.passed, str(report)
    assert report.detections > 0
