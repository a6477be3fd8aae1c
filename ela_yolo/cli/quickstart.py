"""The whole way in one call: trains with and without ELA, measures what attention contributes, exports and draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from ela_yolo.edit.insert import insert
from ela_yolo.errors import ExportError
from ela_yolo.gates.ablation import AblationReport, ablate
from ela_yolo.gates.attention import attention
from ela_yolo.gates.page import PAGE
from ela_yolo.host.lookup import data_images, find_weights
from ela_yolo.parity.export import export_and_compare
from ela_yolo.parity.report import ParityReport
from ela_yolo.parity.runtimes import check_runtime
from ela_yolo.util.tables import markdown_table

WEIGHTS = "yolov8n.pt"
SHARED: Mapping[str, Any] = {
    "optimizer": "AdamW",
    "cos_lr": True,
    "warmup_epochs": 1,
    "mosaic": 0,
    "close_mosaic": 0,
    "cache": "ram",
    "workers": 2,
}
# From pretrained weights. Mosaic, translation and scaling could move a flag out of the picture. A high gain of the
# class loss, since what tells the classes apart is hard to find here, and where the objects are is not.
ROWS: Mapping[str, Any] = {
    **SHARED,
    **{"data": "rows.yaml", "epochs": 5, "imgsz": 128, "batch": 4, "nbs": 4, "lr0": 0.002, "cls": 3.0},
    **{"translate": 0, "scale": 0, "warmup_bias_lr": 0.0},
}
# From scratch: small pictures keep an epoch short; many small steps at a high rate make up for the few epochs.
SCENES: Mapping[str, Any] = {
    **SHARED,
    **{"data": "scenes.yaml", "epochs": 30, "imgsz": 160, "batch": 8, "lr0": 0.003, "cls": 1.0},
}
PICTURES = 6
LAST = "weights/last.pt"  # the best epoch would be chosen on the validation images


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart leaves behind; ``str()`` of it is the summary.

    Attributes:
        plain: mAP50 and mAP50-95 of the model without ELA; None if there were no pretrained weights.
        map50: mAP50 of the model with ELA.
        ablation: What attention contributes to it.
        parity: How its ONNX file compares with it.
        weights: Its weights.
        onnx: Their export.
        page: The page that shows which places support each detection.
    """

    plain: tuple[float, float] | None
    map50: float
    ablation: AblationReport
    parity: ParityReport
    weights: Path
    onnx: Path
    page: Path

    def __str__(self) -> str:
        rows = [["YOLOv8n", *(f"{value:.3f}" for value in self.plain)]] if self.plain else []
        rows += [
            ["YOLOv8n with ELA", f"{self.map50:.3f}", f"{self.ablation.trained:.3f}"],
            ["the same, attention removed", "", f"{self.ablation.together.score:.3f}"],
        ]
        table = markdown_table(["model", "mAP50", "mAP50-95"], rows)
        missing = (
            f"\n\nWithout {WEIGHTS}, which is not here and could not be downloaded, this was trained from scratch on "
            "scenes, where attention has little to do. With it, the quickstart trains YOLOv8n with and without ELA on "
            "rows.yaml, where attention decides, and compares both."
        )
        return (
            f"{table}{'' if self.plain else missing}\n\n"
            f"weights    {self.weights}\n"
            f"ONNX file  {self.onnx}: {self.parity.verdict}\n"
            f"page       {self.page}"
        )


def quickstart(overrides: Mapping[str, Any]) -> QuickstartResult:
    """Train by the recipe, measure what attention contributes, export to ONNX, compare the file, and draw.

    Args:
        overrides: Train keys of Ultralytics that replace the recipe's, such as ``{"epochs": 1}``.

    Raises:
        InputError: Before the training, if the data set cannot be read, or has no validation images.
        ExportError: Before the training, if packages that ONNX needs are missing or there is but one validation image;
            after it, if the file cannot be run.
    """
    check_runtime("onnx")
    pretrained = find_weights(WEIGHTS)
    settings = {**(ROWS if pretrained else SCENES), **overrides}
    data = str(settings["data"])
    images = data_images(data, "val", "detect")[:PICTURES]
    if len(images) < 2:
        raise ExportError(f"data={data} has one validation image; put a second one there to compare with")

    plain = None
    if pretrained:
        run = _train(pretrained, {**settings, "name": "plain-quickstart"})
        plain = _scores(run, settings)
        source = run / "yolov8n-ela.pt"
        insert(pretrained, save=source, lr_mult=100)
    else:
        source = Path("yolov8n-ela.yaml")
    run = _train(source, {**settings, "name": "ela-quickstart"})
    weights = run / LAST
    map50, _ = _scores(run, settings)
    ablation = ablate(weights, data, imgsz=settings["imgsz"], device=settings.get("device"))
    ablation.save(run / "ablation.json")
    onnx, parity = export_and_compare(YOLO(weights), {"format": "onnx", "imgsz": settings["imgsz"]}, images)
    parity.save()
    attention(weights, [*images], run / "attention", settings["imgsz"])
    return QuickstartResult(plain, map50, ablation, parity, weights, onnx, run / "attention" / PAGE)


def _train(model: Path, settings: Mapping[str, Any]) -> Path:
    """Train a model, and return the folder of the run."""
    trained: Any = YOLO(model)
    trained.train(**settings)
    return Path(trained.trainer.save_dir)


def _scores(run: Path, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 of a run."""
    keys = {key: settings[key] for key in ("data", "device", "workers", "imgsz") if key in settings}
    box = YOLO(run / LAST).val(plots=False, verbose=False, project=run, name="validation", **keys).box
    return float(box.map50), float(box.map)
