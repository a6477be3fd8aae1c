"""What users do, with the stock `yolo` command and nothing imported: the tutorial's story in fresh interpreters."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import BIN, FEW, HOME, REPO, forked, forked_python
from ultralytics import YOLO

FAST = ("epochs=1", "fraction=0.05", "imgsz=64", "batch=8", "workers=0", "plots=False")
SCENES, LABELS = (HOME / f"datasets/ela-yolo-scenes/{kind}/val" for kind in ("images", "labels"))
SCORES = ("precision", "recall", "mAP50", "mAP50-95")


def blocks(weights, cwd):
    """How many ELA blocks a checkpoint holds, seen by a process that imports Ultralytics alone."""
    code = f"""
from ultralytics import YOLO
print(sum(type(m).__name__ == "ELA" for m in YOLO({str(weights)!r}).model.modules()))
"""
    return int(forked_python(code, cwd=cwd).stdout.splitlines()[-1])


def test_train_learns_the_blocks_weights(trained, tmp_path):
    assert (trained / "weights/last.pt").is_file()
    assert blocks(trained / "weights/best.pt", tmp_path) == 4
    code = f"""
import torch
from ultralytics import YOLO
trained, fresh = YOLO({str(trained / "weights/last.pt")!r}).model, YOLO("yolov8n-ela.yaml").model
for layer in (3, 6, 9, 12):
    assert not torch.equal(trained.model[layer].gn.weight, fresh.model[layer].gn.weight)
"""
    forked_python(code, cwd=tmp_path)


def labels(file):
    """The detections that the stock command writes with save_txt: class, box in shares of the picture, score."""
    rows = np.loadtxt(file, ndmin=2)
    return rows[np.lexsort(rows.T)]


def predict(model, cwd, *keys):
    """Predict one of the scenes; its drawn picture, which is not the scene as it was, and the detections."""
    keys = (f"source={SCENES}/0000.jpg", f"project={cwd}", "name=predicted", "save_txt=True", "save_conf=True", *keys)
    forked(BIN / "yolo", "predict", f"model={model}", *keys, cwd=cwd)
    scene, drawn = (cv2.imread(str(folder / "0000.jpg")).astype(int) for folder in (SCENES, cwd / "predicted"))
    assert drawn.shape == scene.shape and (abs(drawn - scene) > 80).any(axis=2).mean() > 0.001
    return labels(cwd / "predicted/labels/0000.txt")


def test_predict(retrained, tmp_path):
    """What it detects is what the model gives in an interpreter of its own."""
    found = predict(f"{retrained}/weights/best.pt", tmp_path, "imgsz=96", "conf=0.02")
    (result,) = YOLO(retrained / "weights/best.pt").predict(SCENES / "0000.jpg", imgsz=96, conf=0.02, verbose=False)
    boxes = result.boxes
    expected = np.column_stack([boxes.cls.numpy(), boxes.xywhn.numpy(), boxes.conf.numpy()])
    np.testing.assert_allclose(found, expected[np.lexsort(expected.T)], atol=2e-5)
    assert len(found) > 3


def test_val(retrained, tmp_path):
    """It finds the mAP that the training ended with."""
    command = ["val", f"model={retrained}/weights/best.pt", "data=scenes.yaml", "imgsz=96", "workers=0", "plots=False"]
    done = forked(BIN / "yolo", *command, f"project={tmp_path}", cwd=tmp_path)
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["all"])
    _, images, objects, *scores = row.split()
    counted = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in LABELS.glob("*.txt"))
    assert (images, objects) == ("64", str(counted))
    with (retrained / "results.csv").open(encoding="utf-8") as file:
        epochs = [[float(epoch[f"metrics/{key}(B)"]) for key in SCORES] for epoch in csv.DictReader(file)]
    best = max(epochs, key=lambda epoch: epoch[-1])
    assert best[-1] > 0
    assert [float(score) for score in scores] == pytest.approx(best, abs=0.02)  # the file's weights are halves


def test_stock_export_runs_in_onnx_runtime_through_ultralytics(retrained, tmp_path):
    """And detects there what the checkpoint does."""
    weights = shutil.copy(retrained / "weights/best.pt", tmp_path)
    forked(BIN / "yolo", "export", f"model={weights}", "format=onnx", "imgsz=96", cwd=tmp_path)
    found = predict("best.onnx", tmp_path, "imgsz=96", "conf=0.02")
    (result,) = YOLO(weights).predict(SCENES / "0000.jpg", imgsz=96, conf=0.02, rect=False, verbose=False)
    scores = sorted(result.boxes.conf.tolist())
    assert len(scores) > 3 and sorted(found[:, 5]) == pytest.approx(scores, abs=1e-4)


def tutorial_block(language, start):
    """The tutorial's block of a language that begins so."""
    text = (REPO / "docs/tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(block for block in blocks if block.startswith(start))


def test_a_users_own_yaml_is_inserted_into_and_trains_at_the_scale_of_its_name(tmp_path):
    """As the tutorial shows it."""
    insert = tutorial_block("bash", "ela-yolo insert model=yolov8n.yaml").split()
    done = forked(BIN / insert[0], *insert[1:], cwd=tmp_path)
    expected = tutorial_block("diff", "---") + "ELA follows 21 C2f\nwritten to yolov8-mine.yaml\n"
    hunk = r"(?m)^@@ .*\n"  # the comment at the top of the YAML has other lines in older releases
    assert re.sub(hunk, "", done.stdout) == re.sub(hunk, "", expected)
    train = ["model=yolov8s-mine.yaml", f"data={FEW}", f"project={tmp_path}", "name=mine"]
    done = forked(BIN / "yolo", "train", *train, *FAST, cwd=tmp_path)
    table_row = next(line for line in done.stdout.splitlines() if "ela_yolo.ela.ELA" in line)
    told = "  4608  ela_yolo.ela.ELA                             [512, 'B', 'identity', None, None, None, 100]"
    assert table_row.rstrip().endswith(told)  # args are padded to a width
    assert blocks(tmp_path / "mine/weights/best.pt", tmp_path) == 1


def quickstart(folder, *keys):
    """What the command prints, and its last lines as name -> text."""
    small = (f"data={FEW}", "imgsz=96", "epochs=1", "fraction=0.1", "lr0=0.0001", "workers=0")
    done = forked(BIN / "ela-yolo", "quickstart", *small, *keys, f"project={folder}", cwd=folder, timeout=900)
    assert "Error" not in done.stderr
    summary = {line[:10].strip(): line[10:].strip() for line in done.stdout.splitlines()[-3:]}
    assert list(summary) == ["weights", "ONNX file", "page"]
    return done.stdout, summary


def test_quickstart_compares_with_the_plain_model(plain, tmp_path):
    """With a detector of scenes in place of the official weights, since outputs must depend on the image."""
    shutil.copy(plain, tmp_path / "yolov8n.pt")
    printed, summary = quickstart(tmp_path)
    table = [line for line in printed.splitlines() if line.startswith("| YOLOv8n") or line.startswith("| the same")]
    assert [line.split("|")[1].strip() for line in table] == [
        "YOLOv8n",
        "YOLOv8n with ELA",
        "the same, attention removed",
    ]
    scores = [float(line.split("|")[3]) for line in table]
    ablation = json.loads((tmp_path / "ela-quickstart/ablation.json").read_text(encoding="utf-8"))
    assert scores[1:] == [round(ablation["trained"], 3), round(ablation["together"]["score"], 3)]
    assert (
        blocks(summary["weights"], tmp_path) == 4
        and blocks(tmp_path / "plain-quickstart/weights/last.pt", tmp_path) == 0
    )
    assert "matches within the float32 tolerance" in summary["ONNX file"]
    assert len(list(Path(summary["page"]).parent.glob("*.png"))) == 6
    assert "from scratch" not in printed
    file = summary["ONNX file"].partition(": ")[0]
    report = json.loads(Path(f"{file}.parity.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["passed"] is True and len(report["images"]) == 6


@pytest.mark.nightly  # the same command on other data
def test_quickstart_without_weights(retrained, tmp_path):
    printed, summary = quickstart(tmp_path, f"pretrained={retrained}/weights/best.pt")
    assert "Without yolov8n.pt, which is not here and could not be downloaded, this was trained from scratch" in printed
    assert "| YOLOv8n |" not in printed and "| YOLOv8n with ELA |" in printed
    assert blocks(summary["weights"], tmp_path) == 4 and Path(summary["page"]).is_file()
