"""Exports a model and proves the file: the same images through the file and through the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from glob import glob
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import ASSETS

from ela_yolo.errors import ExportError
from ela_yolo.parity import ParityReport, compare_detections, compare_outputs

Array = np.ndarray[Any, Any]

PROVABLE_TASKS = frozenset({"classify", "detect", "obb", "pose", "segment"})


def check_provable(overrides: Mapping[str, Any]) -> None:
    """Find out before an export whether its file can be proven.

    Args:
        overrides: The host's export keys.

    Raises:
        ExportError: If it cannot, or if a package that is needed is missing.
    """
    unproven = "cannot be proven yet; add verify=False to export unproven"
    if overrides.get("format") != "onnx":
        raise ExportError(f"format={overrides.get('format', 'torchscript')} {unproven}, or take format=onnx")
    for key in ("nms", "end2end", "half", "int8", "quantize"):
        if overrides.get(key):
            raise ExportError(f"{key}={overrides[key]} {unproven}")
    missing = [package for package in ("onnx", "onnxruntime", "onnxslim") if find_spec(package) is None]
    if missing:
        raise ExportError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'ela-yolo[export]'")


def export(
    model: YOLO, overrides: Mapping[str, Any], images: Iterable[str | Path] | None = None
) -> tuple[Path, ParityReport]:
    """Export by the host's exporter and prove the file.

    Args:
        model: The model to export.
        overrides: The host's export keys.
        images: As in :func:`verify_export`.

    Returns:
        The exported file and its proof, which may have failed.

    Raises:
        ExportError: As in :func:`check_provable` and :func:`verify_export`.
    """
    check_provable(overrides)
    exported = Path(model.export(**overrides))
    return exported, verify_export(model, exported, images)


def find_images(source: str) -> list[Path]:
    """Return the images of a folder, or those that a pattern such as ``images/*.jpg`` names.

    Raises:
        ExportError: If there are fewer than two, which is too few for a proof.
    """
    files = Path(source).iterdir() if Path(source).is_dir() else map(Path, glob(source, recursive=True))
    images = sorted(file for file in files if file.suffix[1:].lower() in IMG_FORMATS)
    if len(images) < 2:
        raise ExportError(f"source={source} names {len(images)} images, and a proof needs at least two different ones")
    return images


def verify_export(
    model: YOLO | str | Path, exported: str | Path, images: Iterable[str | Path] | None = None
) -> ParityReport:
    """Run an exported ONNX file and its PyTorch model on the same real images and compare all that comes out.

    Args:
        model: The weights that the file was made from, or the loaded model.
        exported: The ``.onnx`` file that the host's exporter wrote.
        images: Two or more different images; left out, photographs from the host's package and parts of them.

    Raises:
        ExportError: If the file cannot be run or is of a kind that cannot be proven, or an image cannot be read.
    """
    exported = Path(exported)
    file = _OnnxFile(exported)
    model = model if isinstance(model, YOLO) else YOLO(model)
    net: Any = deepcopy(model.model).float().eval()
    if hasattr(net, "end2end"):  # a head without NMS has two branches, and the file holds the other one
        net.end2end = False
    pictures = _read_images(images) if images is not None else _host_photographs()
    by_file, by_model = [], []
    for picture in pictures.values():
        batch = _network_input(picture, file.imgsz).expand(file.batch, -1, -1, -1)
        with torch.inference_mode():
            output = net(batch.to(next(net.parameters()).device))
        output = output[0] if isinstance(output, tuple) else output  # the second entry is for training
        by_model.append([y.cpu() for y in (output if isinstance(output, tuple) else (output,))])
        by_file.append(file.run(batch))
        if [y.shape for y in by_model[-1]] != [y.shape for y in by_file[-1]]:
            raise ExportError(
                f"{exported} gives outputs of shape {[tuple(y.shape) for y in by_file[-1]]}, its model "
                f"{[tuple(y.shape) for y in by_model[-1]]}; it is an export of another model, so export again"
            )

    found, unmatched = compare_detections(by_model, by_file, file.task, len(net.names))
    return ParityReport(
        model=str(getattr(model, "ckpt_path", None) or model.model_name),
        exported=str(exported),
        runtime={name: version(name) for name in ("onnxruntime", "torch", "ultralytics", "ela-yolo")},
        images=tuple(pictures),
        outputs=compare_outputs(by_model, by_file, file.task, net),
        detections=found,
        unmatched=unmatched,
    )


class _OnnxFile:
    """An exported file, run by ONNX Runtime on the CPU."""

    def __init__(self, file: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError("proving ONNX needs ONNX Runtime: pip install 'ela-yolo[export]'") from error
        if not file.is_file():
            raise ExportError(f"{file} does not exist; export it first")
        try:
            self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception class for each way to fail
            raise ExportError(
                f"{file} cannot be run by ONNX Runtime, so export it again ({_first_line(error)})"
            ) from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        if not {"task", "imgsz", "args"} <= metadata.keys():
            raise ExportError(f"{file} lacks the host's metadata; make it with: ela-yolo export model=... format=onnx")
        self.file = file
        self.task = metadata["task"]
        height, width = json.loads(metadata["imgsz"])
        self.imgsz: tuple[int, int] = height, width  # px
        batch = self.session.get_inputs()[0].shape[0]
        self.batch = batch if isinstance(batch, int) else 1
        if self.task not in PROVABLE_TASKS:
            raise ExportError(f"{file}: the task {self.task} cannot be proven yet; add verify=False to export unproven")
        if metadata.get("end2end") == "True" or "'nms': True" in metadata["args"]:
            raise ExportError(
                f"{file} holds its own NMS, which cannot be proven yet; leave nms= out or add verify=False"
            )

    def run(self, batch: Tensor) -> list[Tensor]:
        feed = self.session.get_inputs()[0]
        array = batch.numpy().astype(np.float16 if feed.type == "tensor(float16)" else np.float32)
        try:
            outputs = self.session.run(None, {feed.name: array})
        except Exception as error:  # as above
            raise ExportError(f"{self.file} cannot be run, so export it again ({_first_line(error)})") from error
        return [torch.from_numpy(output).float() for output in outputs]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _host_photographs() -> dict[str, Array]:
    """Return the two photographs of the host's package and two different parts of each: name -> BGR image."""
    pictures = {}
    for name, picture in _read_images(sorted(Path(ASSETS).glob("*.jpg"))).items():
        height, width = picture.shape[:2]
        pictures[name] = picture
        pictures[f"{name}, upper left"] = picture[: height // 2, : width // 2]
        pictures[f"{name}, lower right"] = picture[height // 2 :, width // 2 :]
    return pictures


def _read_images(files: Iterable[str | Path]) -> dict[str, Array]:
    pictures = {}
    for file in files:
        picture = cv2.imread(str(file))
        if picture is None:
            raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
        pictures[str(file)] = picture
    return pictures


def _network_input(picture: Array, imgsz: tuple[int, int]) -> Tensor:
    boxed: Any = LetterBox(imgsz)(image=picture)  # (H, W, 3) BGR
    return torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1])).permute(2, 0, 1)[None].float() / 255
