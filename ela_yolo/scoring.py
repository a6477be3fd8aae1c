"""What a validation of Ultralytics tells beyond its metrics: AP by object size, and mAP50-95 on resampled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZES = ("small", "medium", "large")  # of COCO: up to 32² px, up to 96² px, above; in the image as it is on the disk
RESAMPLES = 300


@dataclass(frozen=True)
class Scores:
    """What one validation found beside its metrics.

    Attributes:
        sizes: Size -> AP at IoU 0.5 to 0.95 as COCO counts it; NaN where no object is of that size.
        objects: Size -> how many objects of the validation images are.
        resampled: mAP50-95 of each of 300 draws of as many images, with replacement. Every validation of as many images
            draws the same, so those of two models can be compared draw by draw.
    """

    sizes: Mapping[str, float]
    objects: Mapping[str, int]
    resampled: Sequence[float]


def validate(model: Any, **keys: Any) -> tuple[Any, Scores]:
    """Validate a detector, and return Ultralytics' metrics and what they leave out.

    Args:
        model: A ``YOLO`` of the task ``detect``.
        **keys: Those of ``model.val``.
    """
    recorded: list[Any] = []

    class Recorder(_Recorder, model._smart_load("validator")):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            recorded.append(self)

    metrics = model.val(validator=Recorder, save_json=True, **keys)
    (validator,) = recorded
    objects, sizes = _by_size(validator.dataloader.dataset.labels, validator.shapes, validator.boxes)
    return metrics, Scores(sizes, objects, _resample(validator.images))


class _Recorder:
    """Keeps what a validator sees of each image, and what it counts."""

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)  # type: ignore[misc]
        self.shapes: dict[str, tuple[int, int]] = {}
        self.boxes: list[tuple[str, Any, Any, Any]] = []
        self.images: dict[str, list[Any]] = {}

    def _prepare_batch(self, number: int, batch: Mapping[str, Any]) -> Any:
        self.shapes[batch["im_file"][number]] = tuple(batch["ori_shape"][number])
        return super()._prepare_batch(number, batch)  # type: ignore[misc]

    def pred_to_json(self, found: Mapping[str, Any], image: Mapping[str, Any]) -> None:
        self.boxes.append((image["im_file"], *(found[key].cpu().numpy() for key in ("bboxes", "conf", "cls"))))

    def eval_json(self, stats: Any) -> Any:
        return stats

    def get_stats(self) -> Any:
        self.images = {key: list(values) for key, values in self.metrics.stats.items()}  # type: ignore[attr-defined]
        return super().get_stats()  # type: ignore[misc]


def _by_size(
    labels: Sequence[Mapping[str, Any]],
    shapes: Mapping[str, tuple[int, int]],
    boxes: Sequence[tuple[str, Any, Any, Any]],
) -> tuple[dict[str, int], dict[str, float]]:
    """Return how many objects are of each size, and the AP of each, NaN where there is none."""
    from faster_coco_eval import COCO, COCOeval_faster

    numbers = {file: number for number, file in enumerate(shapes)}
    truth: list[dict[str, Any]] = []
    for label in labels:
        number, (height, width) = numbers[label["im_file"]], shapes[label["im_file"]]
        for kind, (x, y, w, h) in zip(label["cls"].flat, label["bboxes"] * (width, height, width, height), strict=True):
            box = {"bbox": [x - w / 2, y - h / 2, w, h], "area": w * h}
            truth.append({"id": len(truth) + 1, "image_id": number, "category_id": int(kind), "iscrowd": 0, **box})
    found = [
        {"image_id": numbers[file], "category_id": int(kind), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for file, corners, scores, kinds in boxes
        for (x1, y1, x2, y2), score, kind in zip(corners.tolist(), scores.tolist(), kinds.tolist(), strict=True)
    ]
    coco = COCO(
        {
            "images": [{"id": number} for number in numbers.values()],
            "annotations": truth,
            "categories": [{"id": kind} for kind in sorted({each["category_id"] for each in truth})],
        }
    )
    evaluation = COCOeval_faster(coco, coco.loadRes(found), iouType="bbox", print_function=lambda *_: None)
    ranges = dict(zip(evaluation.params.areaRngLbl, evaluation.params.areaRng, strict=True))
    objects = {size: sum(bool(ranges[size][0] <= each["area"] < ranges[size][1]) for each in truth) for size in SIZES}
    if not found:
        return objects, {size: 0.0 if objects[size] else float("nan") for size in SIZES}
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    aps = evaluation.stats_as_dict
    return objects, {size: float(aps[f"AP_{size}"]) if objects[size] else float("nan") for size in SIZES}


def _resample(images: Mapping[str, Sequence[Any]]) -> tuple[float, ...]:
    """Return mAP50-95, as Ultralytics counts it, of draws of as many images."""
    from ultralytics.utils.metrics import ap_per_class

    keys = ("tp", "conf", "pred_cls", "target_cls")
    count = len(images["tp"])
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    drawn = ([np.concatenate([images[key][i] for i in draw]) for key in keys] for draw in draws)
    return tuple(float(ap_per_class(*arrays)[5].mean()) for arrays in drawn)  # type: ignore[arg-type]
