"""Scores that a validation of Ultralytics does not compute: AP by object size, and mAP50-95 on resampled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZES = ("small", "medium", "large")  # COCO's: up to 32² px, up to 96² px, above; in the original image
RESAMPLES = 300


@dataclass(frozen=True)
class Scores:
    """The further scores of one validation.

    Attributes:
        sizes: Size of objects -> AP at IoU 0.5 to 0.95 as COCO counts it; NaN if there is no such object.
        objects: Size of objects -> the number of them in the validation images.
        resampled: mAP50-95 of 300 bootstrap draws of the images. The draws depend on the number of images alone, so two
            models can be compared draw by draw.
    """

    sizes: Mapping[str, float]
    objects: Mapping[str, int]
    resampled: Sequence[float]


def validate(model: Any, **keys: Any) -> tuple[Any, Scores]:
    """Validate a detector, and return the metrics of Ultralytics and the further scores.

    Args:
        model: A ``YOLO`` of the task ``detect``.
        **keys: The keys of ``model.val``.
    """
    recorded: list[Any] = []

    class Recorder(_Recorder, model._smart_load("validator")):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            recorded.append(self)

    metrics = model.val(validator=Recorder, save_json=True, **keys)
    (validator,) = recorded
    objects, sizes = _by_size(validator)
    return metrics, Scores(sizes, objects, _resample(validator.images, draw_images(len(validator.images["tp"]))))


class _Recorder:
    """Stores the data of each image that a validator sees."""

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)  # type: ignore[misc]
        self.shapes: dict[str, tuple[int, int]] = {}
        self.boxes: list[tuple[str, dict[str, Any]]] = []
        self.images: dict[str, list[Any]] = {}

    def _prepare_batch(self, number: int, batch: Mapping[str, Any]) -> Any:
        self.shapes[batch["im_file"][number]] = tuple(batch["ori_shape"][number])
        return super()._prepare_batch(number, batch)  # type: ignore[misc]

    def pred_to_json(self, found: Mapping[str, Any], image: Mapping[str, Any]) -> None:
        super().pred_to_json(found, image)  # type: ignore[misc]
        # By file: the image_id of Ultralytics is the file's stem, which two folders may share.
        self.boxes += [(image["im_file"], box) for box in self.jdict]  # type: ignore[attr-defined]
        self.jdict.clear()  # type: ignore[attr-defined]

    def eval_json(self, stats: Any) -> Any:
        return stats

    def get_stats(self) -> Any:
        self.images = {key: list(values) for key, values in self.metrics.stats.items()}  # type: ignore[attr-defined]
        return super().get_stats()  # type: ignore[misc]


def _by_size(validator: Any) -> tuple[dict[str, int], dict[str, float]]:
    """Return for each size the number of objects, and the AP, which is NaN if there are none."""
    from faster_coco_eval import COCO, COCOeval_faster

    numbers = {file: number for number, file in enumerate(validator.shapes)}
    truth: list[dict[str, Any]] = []
    for label in validator.dataloader.dataset.labels:
        number, (height, width) = numbers[label["im_file"]], validator.shapes[label["im_file"]]
        for kind, (x, y, w, h) in zip(label["cls"].flat, label["bboxes"] * (width, height, width, height), strict=True):
            box = {"bbox": [x - w / 2, y - h / 2, w, h], "area": w * h}
            category = validator.class_map[int(kind)]
            truth.append({"id": len(truth) + 1, "image_id": number, "category_id": category, "iscrowd": 0, **box})
    found = [{**box, "image_id": numbers[file]} for file, box in validator.boxes]
    params = COCOeval_faster(iouType="bbox").params
    ranges = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
    objects = {size: sum(bool(ranges[size][0] <= each["area"] < ranges[size][1]) for each in truth) for size in SIZES}
    if not found:
        return objects, {size: 0.0 if objects[size] else float("nan") for size in SIZES}
    coco = COCO(
        {
            "images": [{"id": number} for number in numbers.values()],
            "annotations": truth,
            "categories": [{"id": kind} for kind in sorted({each["category_id"] for each in truth})],
        }
    )
    evaluation = COCOeval_faster(coco, coco.loadRes(found), iouType="bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    aps = evaluation.stats_as_dict
    return objects, {size: float(aps[f"AP_{size}"]) if objects[size] else float("nan") for size in SIZES}


def draw_images(count: int) -> Any:
    """Return 300 draws of ``count`` images with replacement: numbers of images, of shape ``(300, count)``."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def _resample(images: Mapping[str, Sequence[Any]], draws: Any) -> tuple[float, ...]:
    """Return mAP50-95 of each draw, as Ultralytics computes it."""
    from ultralytics.utils.metrics import ap_per_class

    keys = ("tp", "conf", "pred_cls", "target_cls")
    drawn = ([np.concatenate([images[key][i] for i in draw]) for key in keys] for draw in draws)
    return tuple(_mean_ap(ap_per_class(*arrays)[5]) for arrays in drawn)  # type: ignore[arg-type]


def _mean_ap(aps: Any) -> float:
    return float(aps.mean()) if len(aps) else 0.0  # as in Ultralytics if no image shows an object
