"""Draws Ultralytics' own class heat map (LayerCAM, ``yolo predict visualize=True``)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ela_yolo.errors import InputError
from ela_yolo.host.lookup import check_model, find_model, open_model

Array = np.ndarray[Any, Any]
SINCE = "8.4.113"


class HeatMaps:
    """Draws heat maps of a model: where the image speaks for the classes that it detects.

    Args:
        model: A checkpoint (.pt) or a model YAML.
        classes: Names or numbers of classes, separated by commas; None means all.

    Raises:
        InputError: If this Ultralytics has no such heat map, or the model has no such class.
    """

    def __init__(self, model: str | Path, classes: str | None = None) -> None:
        from ultralytics import __version__
        from ultralytics.utils import plotting

        if not hasattr(plotting, "class_activation_map"):
            raise InputError(
                f"class= and beside= need the heat maps of Ultralytics {SINCE} or later, and this is {__version__}; "
                "leave them out"
            )
        check_model(str(model))
        self._model: Any = open_model(find_model(model))
        self._classes = None if classes is None else _numbers(classes, self._model.names, model)

    def draw(self, image: Array, imgsz: int | None = None) -> Array:
        """Return the heat map over the image in the network's input, letterbox included.

        Shape:
            - image: ``(H, W, 3)``, BGR
            - Output: ``(height, width, 3)`` of the network's input, BGR
        """
        size = {} if imgsz is None else {"imgsz": imgsz}
        with tempfile.TemporaryDirectory() as folder:
            place = {"project": folder, "name": "maps", "exist_ok": True}
            self._model.predict(image, visualize=True, classes=self._classes, verbose=False, **place, **size)
            (file,) = Path(folder).rglob("*_cam*.jpg")
            drawn: Any = cv2.imread(str(file))
        return np.asarray(drawn)


def _numbers(classes: str, names: dict[int, str], model: str | Path) -> list[int]:
    found = []
    for each in classes.split(","):
        number = next((key for key, name in names.items() if each.strip() in (name, str(key))), None)
        if number is None:
            known = ", ".join([*names.values()][:10])
            raise InputError(f"model={model} has no class {each.strip()}; name one of {known}")
        found.append(number)
    return found
