"""What users do, with the stock `yolo` command and nothing imported, each step in a fresh interpreter."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import BIN, HOME, REPO, SHARED, python, run

BCCD = SHARED / "data/bccd/bccd.yaml"
FAST = ("epochs=1", "fraction=0.1", "imgsz=96", "batch=8", "workers=0", "plots=False")
SCENES = HOME / "datasets/ela-yolo-scenes/images/val"


def blocks(weights, cwd):
    """How many ELA blocks a checkpoint holds, seen by an interpreter that imports the host alone."""
    code = f"""
from ultralytics import YOLO
print(sum(type(m).__name__ == "ELA" for m in YOLO({str(weights)!r}).model.modules()))
"""
    return int(python(code, cwd=cwd).stdout.splitlines()[-1])


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
    python(code, cwd=tmp_path)


def test_predict(retrained, tmp_path):
    command = [
        "predict",
        f"model={retrained}/weights/best.pt",
        f"source={SCENES}/0000.jpg",
        "imgsz=96",
        f"project={tmp_path}",
    ]
    run(BIN / "yolo", *command, cwd=tmp_path)
    assert (tmp_path / "predict/0000.jpg").is_file()


def test_val(retrained, tmp_path):
    command = ["val", f"model={retrained}/weights/best.pt", "data=scenes.yaml", "imgsz=96", "workers=0", "plots=False"]
    done = run(BIN / "yolo", *command, f"project={tmp_path}", cwd=tmp_path)
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["all"])
    assert row.split()[1] == "64"


def test_training_on_from_a_checkpoint_keeps_the_blocks(retrained, tmp_path):
    assert blocks(retrained / "weights/best.pt", tmp_path) == 4
    with (retrained / "results.csv").open() as file:
        losses = [float(row["train/box_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_stock_export_runs_in_onnx_runtime_through_the_host(retrained, tmp_path):
    weights = shutil.copy(retrained / "weights/best.pt", tmp_path)
    run(BIN / "yolo", "export", f"model={weights}", "format=onnx", "imgsz=96", cwd=tmp_path)
    run(
        BIN / "yolo",
        "predict",
        "model=best.onnx",
        f"source={SCENES}/0000.jpg",
        "imgsz=96",
        f"project={tmp_path}",
        cwd=tmp_path,
    )
    assert (tmp_path / "predict/0000.jpg").is_file()


def readme_block(language, start):
    """The README's block of a language that begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if block.startswith(start))


def test_a_users_own_yaml_trains_validates_predicts_and_exports(tmp_path):
    """The README's story."""
    insert = readme_block("bash", "ela-yolo insert model=yolov8n.yaml").split()
    done = run(BIN / insert[0], *insert[1:], cwd=tmp_path)
    assert done.stdout == readme_block("diff", "---") + "written to yolov8-mine.yaml\n"
    train = ["model=yolov8s-mine.yaml", "data=scenes.yaml", f"project={tmp_path}", "name=mine"]
    done = run(BIN / "yolo", "train", *train, *FAST, cwd=tmp_path)
    table_row = next(line for line in done.stdout.splitlines() if "ela_yolo.ela.ELA" in line)
    assert table_row.split() == ["22", "-1", "1", "4608", "ela_yolo.ela.ELA", "[512,", "'B',", "'paper']"]
    best = f"model={tmp_path}/mine/weights/best.pt"
    run(BIN / "yolo", "val", best, "data=scenes.yaml", "imgsz=96", "workers=0", f"project={tmp_path}", cwd=tmp_path)
    run(BIN / "yolo", "predict", best, f"source={SCENES}/0000.jpg", f"project={tmp_path}", cwd=tmp_path)
    run(BIN / "yolo", "export", best, "format=onnx", "imgsz=96", cwd=tmp_path)
    assert (tmp_path / "mine/weights/best.onnx").is_file()


def test_quickstart(retrained, tmp_path):
    """From weights that have learned a little, so that one epoch is enough for a proof."""
    keys = ["epochs=1", "imgsz=96", f"model={retrained}/weights/best.pt", f"project={tmp_path}"]
    done = run(BIN / "ela-yolo", "quickstart", *keys, cwd=tmp_path)
    assert "\nthe file matches within the float32 tolerance" in done.stdout
    summary = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-7:])
    assert list(summary) == ["mAP50", "mAP50-95", "parity", "weights", "ONNX", "curves", "pictures"]
    assert 0 <= float(summary["mAP50-95"]) <= float(summary["mAP50"]) <= 1
    for name in ("weights", "ONNX", "curves"):
        assert Path(summary[name]).is_file(), name
    assert len(list(Path(summary["pictures"]).glob("*.jpg"))) == 6
    report = json.loads(Path(f"{summary['ONNX']}.parity.json").read_text())
    assert report["passed"] is True
    assert len(report["images"]) == 6


def test_real_photographs_train_through_the_stock_command(tmp_path):
    if not BCCD.is_file():
        pytest.skip(f"no photographs: {BCCD} is absent")
    keys = ["epochs=1", "imgsz=128", "batch=16", "workers=0", "plots=False", f"project={tmp_path}", "name=bccd"]
    run(BIN / "yolo", "train", "model=yolov8n-ela.yaml", f"data={BCCD}", *keys, cwd=tmp_path)
    assert blocks(tmp_path / "bccd/weights/best.pt", tmp_path) == 4
    with (tmp_path / "bccd/results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train/box_loss"]) > 0
