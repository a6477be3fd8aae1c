"""``ela-yolo quickstart``: trains with and without ELA, measures what attention contributes, exports and draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from ela_yolo.edit.insert import insert
from ela_yolo.errors import ExportError
from ela_yolo.gates.ablation import ablate
from ela_yolo.gates.attention import attention
from ela_yolo.gates.page import PAGE
from ela_yolo.host.lookup import data_images, find_weights
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.runtimes import check_runtime
from ela_yolo.util.console import say
from ela_yolo.util.tables import markdown_table

WEIGHTS = "yolov8n.pt"
SHARED: Mapping[str, Any] = {
    **{"optimizer": "AdamW", "cos_lr": True, "warmup_epochs": 1, "mosaic": 0, "close_mosaic": 0},
    **{"cache": "ram", "workers": 2},
}
# From pretrained weights. Mosaic, translation and scaling could move a flag out of the picture. A high gain of the
# class loss, since the classes are hard to tell apart here, and the objects are easy to find.
ROWS: Mapping[str, Any] = {
    **SHARED,
    **{"data": "rows.yaml", "epochs": 5, "imgsz": 128, "batch": 4, "nbs": 4, "lr0": 0.002, "cls": 3.0},
    **{"translate": 0, "scale": 0, "warmup_bias_lr": 0.0},
}
# From scratch. Small pictures keep an epoch short; many small steps at a high rate make up for the few epochs.
SCENES: Mapping[str, Any] = {
    **SHARED,
    **{"data": "scenes.yaml", "epochs": 30, "imgsz": 160, "batch": 8, "lr0": 0.003, "cls": 1.0},
}
PICTURES = 6
LAST = "weights/last.pt"  # the best epoch would be chosen on the validation images
FROM_SCRATCH = (
    f"\nWithout {WEIGHTS}, which is not here and could not be downloaded, this was trained from scratch on scenes, "
    "where attention has little to do. With it, the quickstart trains YOLOv8n with and without ELA on rows.yaml, where "
    "attention decides, and compares both."
)


def quickstart(overrides: Mapping[str, Any]) -> bool:
    """Train by the recipe, measure what attention contributes, export to ONNX, compare the file, draw, and print all.

    Args:
        overrides: Train keys of Ultralytics that replace the recipe's, such as ``{"epochs": 1}``.

    Returns:
        Whether the ONNX file matches the model.
    """
    check_runtime("onnx")
    pretrained = find_weights(WEIGHTS)
    settings = {**(ROWS if pretrained else SCENES), **overrides}
    data, size = str(settings["data"]), settings["imgsz"]
    images = data_images(data, "val", "detect")[:PICTURES]
    if len(images) < 2:
        raise ExportError(f"data={data} has one validation image; add a second one for the comparison")

    rows, source = [], Path("yolov8n-ela.yaml")
    if pretrained:
        run, scores = _train(pretrained, {**settings, "name": "plain-quickstart"})
        rows.append(["YOLOv8n", *(f"{score:.3f}" for score in scores)])
        source = run / source.with_suffix(".pt")
        insert(pretrained, save=source, gate="paper", exist_ok=True)
    run, (map50, _) = _train(source, {**settings, "name": "ela-quickstart"})
    ablation = ablate(run / LAST, data, imgsz=size, device=settings.get("device"))
    ablation.save(run / "ablation.json")
    rows.append(["YOLOv8n with ELA", f"{map50:.3f}", f"{ablation.trained:.3f}"])
    rows.append(["the same, attention removed", "", f"{ablation.together.score:.3f}"])
    onnx, parity = export_and_compare(YOLO(run / LAST), {"format": "onnx", "imgsz": size}, images)
    parity.save()
    say(f"\n{parity}\n\n{ablation}\n\n{markdown_table(['model', 'mAP50', 'mAP50-95'], rows)}")
    if not pretrained:
        say(FROM_SCRATCH)
    attention(run / LAST, [*images], run / "attention", size)
    say(f"\nweights    {run / LAST}\nONNX file  {onnx}: {parity.verdict}\npage       {run / 'attention' / PAGE}")
    return parity.passed


def _train(model: Path, settings: Mapping[str, Any]) -> tuple[Path, tuple[float, float]]:
    """Train a model, and return the folder of the run, and mAP50 and mAP50-95 of its last epoch."""
    trained: Any = YOLO(model)
    trained.train(**settings)
    run = Path(trained.trainer.save_dir)
    keys = {key: settings[key] for key in ("data", "device", "workers", "imgsz") if key in settings}
    box = YOLO(run / LAST).val(plots=False, verbose=False, project=run, name="validation", **keys).box
    return run, (float(box.map50), float(box.map))
