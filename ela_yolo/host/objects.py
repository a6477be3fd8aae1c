"""Reads the labelled objects of a data set as Ultralytics reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BOXED = ("detect", "segment", "pose", "obb")
OUTLINED = ("segment", "obb")  # their labels are polygons


def labelled_objects(data: str, split: str, task: str) -> dict[Path, list[Array]]:
    """Return image -> the outline of each of its objects: its box, or the polygon of a mask or of an oriented box.

    As with ``yolo val``, Ultralytics keeps what it read in a file ``labels.cache`` beside the labels.

    Args:
        data: A data set's YAML, found as Ultralytics finds it.
        split: ``train``, ``val`` or ``test``.
        task: The task of the model; others than detect, segment, pose and obb have no objects.

    Shape:
        - outlines: ``(N, 2)`` of x and y as shares of the image
    """
    if task not in BOXED:
        return {}
    from ultralytics.data.dataset import YOLODataset

    from ela_yolo.host.versions import check_dataset

    content = check_dataset(data, split)
    read = YOLODataset(img_path=content[split], data=content, task=task, augment=False)
    return {Path(label["im_file"]).absolute(): outlines_of(label, task) for label in read.labels}


def outlines_of(label: Mapping[str, Any], task: str) -> list[Array]:
    """Return the outlines of the objects of a label of Ultralytics' data sets.

    Shape:
        - Output: ``(N, 2)`` of x and y as shares of the image
    """
    if task in OUTLINED and label.get("segments"):
        return [np.asarray(each) for each in label["segments"] if len(each) > 2]
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return [box[:2] + corners * box[2:] for box in label["bboxes"]]
