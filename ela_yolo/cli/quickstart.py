"""The whole way in one call: trains, validates, exports and compares a detector, and shows where its ELA looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from ultralytics import YOLO
from ultralytics.engine.results import Results

from ela_yolo.errors import ExportError
from ela_yolo.gates.attention import attention, gate_health
from ela_yolo.gates.health import GateReport
from ela_yolo.gates.page import PAGE
from ela_yolo.host.lookup import data_images
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.report import ParityReport
from ela_yolo.parity.runtimes import check_runtime

# From scratch on two CPU cores in minutes. Small pictures and no mosaic keep an epoch short; many small steps of Adam
# at a high rate make up for the few epochs.
RECIPE: Mapping[str, Any] = {
    "model": "yolov8n-ela.yaml",
    "data": "scenes.yaml",
    "name": "ela-quickstart",
    "epochs": 30,
    "imgsz": 160,
    "batch": 8,
    "optimizer": "AdamW",
    "lr0": 0.003,
    "cos_lr": True,
    "cls": 1.0,  # the gain of the class loss: what is what is harder here than where it is
    "warmup_epochs": 1,
    "mosaic": 0,
    "close_mosaic": 0,
    "cache": "ram",
    "workers": 2,
}
PICTURES = 6
PICTURE_SIDE = 640  # px; small images are drawn larger, or the labels would hide them


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart leaves behind; ``str()`` of it is the summary.

    Attributes:
        map50: mAP50 of the best weights on the validation images.
        map50_95: mAP50-95, likewise.
        parity: How the ONNX file compares with the model.
        weights: The best weights.
        onnx: Their export.
        curves: The picture of losses and mAP over the epochs; with ``plots=False`` their table.
        pictures: Validation images with the detections drawn.
        gates: What the ELA blocks do, over the validation images; None if the model has none.
        page: The page that shows where they look, or None.
    """

    map50: float
    map50_95: float
    parity: ParityReport
    weights: Path
    onnx: Path
    curves: Path
    pictures: Path
    gates: GateReport | None
    page: Path | None

    def __str__(self) -> str:
        told = (
            f"mAP50     {self.map50:.3f}\n"
            f"mAP50-95  {self.map50_95:.3f}\n"
            f"ONNX file {self.parity.verdict}\n"
            f"weights   {self.weights}\n"
            f"ONNX      {self.onnx}\n"
            f"curves    {self.curves}\n"
            f"pictures  {self.pictures}"
        )
        for block in self.gates.blocks if self.gates else ():
            told += f"\nELA {block.layer:<5} {block.verdict}"
        return f"{told}\npage      {self.page}" if self.page else told


def quickstart(overrides: Mapping[str, Any]) -> QuickstartResult:
    """Train by the recipe, then validate, export to ONNX, compare the file, and draw detections and attention.

    Args:
        overrides: Train keys of Ultralytics that replace the recipe's, such as ``{"epochs": 1}``.

    Raises:
        InputError: Before the training, if the data set cannot be read, or has no validation images.
        ExportError: Before the training, if packages that ONNX needs are missing or there is but one validation image;
            after it, if the file cannot be run.
    """
    check_runtime("onnx")
    settings = {**RECIPE, **overrides}
    images = data_images(str(settings["data"]), "val", "detect")[:PICTURES]
    if len(images) < 2:
        raise ExportError(f"data={settings['data']} has one validation image; put a second one there to compare with")

    trained = YOLO(settings.pop("model"))
    trained.train(**settings)
    trainer: Any = trained.trainer
    run = Path(trainer.save_dir)
    weights = run / "weights" / "best.pt"

    machine = {key: settings[key] for key in ("device", "workers") if key in settings}
    best = YOLO(weights)
    metrics = best.val(data=settings["data"], project=run, name="validation", **machine)
    onnx, parity = export_and_compare(YOLO(weights), {"format": "onnx", "imgsz": settings["imgsz"]}, images)
    parity.save()
    pictures = _draw(best.predict(images, imgsz=settings["imgsz"], verbose=False, **machine), run / "pictures")
    gates = page = None
    if named_blocks(best):
        gates = gate_health(weights, str(settings["data"]), imgsz=settings["imgsz"])
        attention(weights, [*images], run / "attention", settings["imgsz"], report=gates)
        page = run / "attention" / PAGE
    return QuickstartResult(
        map50=float(metrics.box.map50),
        map50_95=float(metrics.box.map),
        parity=parity,
        weights=weights,
        onnx=onnx,
        curves=run / ("results.png" if (run / "results.png").is_file() else "results.csv"),
        pictures=pictures,
        gates=gates,
        page=page,
    )


def _draw(results: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for result in results:
        zoom = max(1, PICTURE_SIDE // max(result.orig_shape))
        image = cv2.resize(result.orig_img, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        boxes = result.boxes.data.clone()
        boxes[:, :4] *= zoom
        file = Path(result.path)
        Results(image, file.name, result.names, boxes=boxes).save(str(folder / file.name))
    return folder
