"""Validates a model by Ultralytics, and computes scores that it does not: by object size, and on resampled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

SIZES = ("small", "medium", "large")  # COCO's: up to 32² px, up to 96² px, above; in the original image
RESAMPLES = 300


class Metric(NamedTuple):
    """The main metric of a task.

    Attributes:
        name: Its name in reports.
        key: Its key in the results of Ultralytics.
        second: Another metric that reports show: its name and its key.
        hits: The key of the matches in the statistics of each image, from which it can be computed for other draws of
            the images; None where Ultralytics keeps no statistics of each image.
        classes: The attribute of Ultralytics' metrics that has the main metric of each class; None if there is none.
    """

    name: str
    key: str
    second: tuple[str, str]
    hits: str | None = None
    classes: str | None = None


METRICS: Mapping[str, Metric] = {
    "detect": Metric("mAP50-95", "metrics/mAP50-95(B)", ("mAP50", "metrics/mAP50(B)"), "tp", "box"),
    "obb": Metric("mAP50-95", "metrics/mAP50-95(B)", ("mAP50", "metrics/mAP50(B)"), "tp", "box"),
    "segment": Metric("mask mAP50-95", "metrics/mAP50-95(M)", ("mask mAP50", "metrics/mAP50(M)"), "tp_m", "seg"),
    "pose": Metric("pose mAP50-95", "metrics/mAP50-95(P)", ("pose mAP50", "metrics/mAP50(P)"), "tp_p", "pose"),
    "classify": Metric("top-1 accuracy", "metrics/accuracy_top1", ("top-5 accuracy", "metrics/accuracy_top5")),
    "semantic": Metric("mIoU", "metrics/mIoU", ("pixel accuracy", "metrics/pixel_acc")),
    "depth": Metric("delta1", "metrics/delta1", ("RMSE", "metrics/rmse")),
}


@dataclass(frozen=True)
class Scores:
    """The scores of one validation.

    Attributes:
        value: The main metric of the task.
        images: The number of images.
        metrics: All metrics of Ultralytics, by their keys.
        classes: Class -> the main metric, for the classes in the images; empty if the task has no such metric.
        resampled: The main metric of 300 bootstrap draws of the images; empty if the metric has no statistics of each
            image. The draws depend on the number of images alone, so two models can be compared draw by draw.
        objects: Size of objects -> the number of them in the images. Only of a detector, and with ``by_size``.
        sizes: Size of objects -> AP at IoU 0.5 to 0.95 as COCO counts it; NaN if there is no such object. Likewise.
    """

    value: float
    images: int
    metrics: Mapping[str, float]
    classes: Mapping[str, float]
    resampled: Sequence[float]
    objects: Mapping[str, int]
    sizes: Mapping[str, float]


def validate(
    model: Any, *, by_size: bool = False, on_start: Callable[[Any], None] | None = None, **keys: Any
) -> Scores:
    """Validate a model by Ultralytics.

    Args:
        model: A ``YOLO`` or ``RTDETR``.
        by_size: Whether to compute the AP by object size, of a detector, where faster-coco-eval is installed.
        on_start: Is called with the validator when its images are loaded, after any warm-up of the device.
        **keys: The keys of ``model.val``.
    """
    recorded: list[Any] = []
    metric = METRICS[model.task]
    by_size = by_size and model.task == "detect" and find_spec("faster_coco_eval") is not None

    class Recorder(_Recorder, model._smart_load("validator")):  # type: ignore[misc]
        hits = metric.hits
        sized = by_size

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            recorded.append(self)

        def init_metrics(self, network: Any) -> None:
            super().init_metrics(network)
            if on_start is not None:
                on_start(self)

    found = model.val(validator=Recorder, **({"save_json": True} if by_size else {}), **keys)
    (validator,) = recorded
    count = len(validator.dataloader.dataset)
    resampled: tuple[float, ...] = ()
    # Before 8.3.164, Ultralytics leaves out an image without objects and detections.
    if metric.hits and len(validator.images.get(metric.hits, ())) == count:
        resampled = _resample(validator.images, metric.hits)
    classes = {}
    if metric.classes:
        by_class = getattr(found, metric.classes)
        classes = {found.names[int(i)]: float(ap) for i, ap in zip(by_class.ap_class_index, by_class.ap, strict=True)}
    objects, sizes = _by_size(validator) if by_size else ({}, {})
    results = {key: float(value) for key, value in found.results_dict.items() if key.startswith("metrics/")}
    return Scores(results[metric.key], count, results, classes, resampled, objects, sizes)


class _Recorder:
    """Stores the data of each image that a validator sees."""

    hits: str | None
    sized: bool

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)  # type: ignore[misc]
        self.shapes: dict[str, tuple[int, int]] = {}
        self.boxes: list[tuple[str, dict[str, Any]]] = []
        self.images: dict[str, list[Any]] = {}

    def _prepare_batch(self, number: int, batch: Mapping[str, Any]) -> Any:
        self.shapes[batch["im_file"][number]] = tuple(batch["ori_shape"][number])
        return super()._prepare_batch(number, batch)  # type: ignore[misc]

    def pred_to_json(self, found: Any, image: Any) -> None:
        super().pred_to_json(found, image)  # type: ignore[misc]
        if self.sized:
            # By file: the image_id of Ultralytics is the file's stem, which two folders may share.
            file = image["im_file"] if isinstance(image, Mapping) else image  # the file itself before 8.3.164
            self.boxes += [(str(file), box) for box in self.jdict]  # type: ignore[attr-defined]
            self.jdict.clear()  # type: ignore[attr-defined]

    def eval_json(self, stats: Any) -> Any:
        return stats if self.sized else super().eval_json(stats)  # type: ignore[misc]

    def get_stats(self) -> Any:
        if self.hits:
            kept = getattr(self, "stats", None) or self.metrics.stats  # type: ignore[attr-defined]  # before 8.3.164
            self.images = {key: [_array(each) for each in values] for key, values in kept.items()}
        return super().get_stats()  # type: ignore[misc]


def _array(values: Any) -> Any:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)


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


def interval(draws: Any) -> tuple[float, float]:
    """Return the ends of the 95% interval of draws, an array of numbers."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _resample(images: Mapping[str, Sequence[Any]], hits: str) -> tuple[float, ...]:
    """Return mAP50-95 of each draw, as Ultralytics computes it."""
    from ultralytics.utils.metrics import ap_per_class

    draws = draw_images(len(images[hits]))
    keys = (hits, "conf", "pred_cls", "target_cls")
    drawn = ([np.concatenate([images[key][i] for i in draw]) for key in keys] for draw in draws)
    return tuple(_mean_ap(ap_per_class(*arrays)[5]) for arrays in drawn)  # type: ignore[arg-type]


def _mean_ap(aps: Any) -> float:
    return float(aps.mean()) if len(aps) else 0.0  # as in Ultralytics if no image shows an object
