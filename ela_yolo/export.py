"""Exports a model and proves the file: the same images through the file and through the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from glob import glob
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import ultralytics
from torch import Tensor
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import ASSETS

import ela_yolo
from ela_yolo.errors import ExportError
from ela_yolo.parity import OutputParity, ParityReport, compare_detections, compare_outputs, report_path

Array = np.ndarray[Any, Any]

PROVABLE_TASKS = frozenset({"classify", "detect", "obb", "pose", "segment"})


def check_provable(model: Any, overrides: Mapping[str, Any]) -> None:
    """Find out before an export whether its file can be proven.

    Args:
        model: The model to export.
        overrides: The host's export keys.

    Raises:
        ExportError: If it cannot, or if a package that is needed is missing.
    """
    unproven = "cannot be proven yet; add verify=False to export unproven"
    if str(overrides.get("format")).lower() != "onnx":
        raise ExportError(f"format={overrides.get('format')} {unproven}, or take format=onnx")
    for key, plain in (("nms", None), ("end2end", False), ("half", False), ("int8", False), ("quantize", 32)):
        if overrides.get(key) not in (None, plain):
            raise ExportError(f"{key}={overrides[key]} {unproven}")
    head = type(model.model.model[-1]).__name__
    if model.task not in PROVABLE_TASKS or head == "RTDETRDecoder":
        raise ExportError(f"a model with the head {head} {unproven}")
    if model.model.yaml.get("channels", 3) != 3:
        raise ExportError(f"a model of {model.model.yaml['channels']}-channel images {unproven}")
    check_packages()


def check_packages() -> None:
    """Find out whether the packages are there that exporting to ONNX and proving it need.

    Raises:
        ExportError: If not; the message names the extra to install.
    """
    missing = [package for package in ("onnx", "onnxruntime", "onnxslim") if find_spec(package) is None]
    if missing:
        raise ExportError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'ela-yolo[export]'")


def export_unproven(model: YOLO, overrides: Mapping[str, Any]) -> Path:
    """Export by the host's exporter and return the file; the proof of a former one of that name is deleted."""
    exported = Path(model.export(**overrides))
    report_path(exported).unlink(missing_ok=True)
    return exported


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
    check_provable(model, overrides)
    pictures = None if images is None else _read_images(images)
    exported = export_unproven(model, overrides)
    return exported, _verify(model, exported, pictures)


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
    model = model if isinstance(model, YOLO) else YOLO(model)
    return _verify(model, Path(exported), None if images is None else _read_images(images))


def _verify(model: YOLO, exported: Path, pictures: Mapping[str, Array] | None) -> ParityReport:
    file = _OnnxFile(exported)
    net: Any = model.model
    net = deepcopy(net).float().eval()
    if hasattr(net, "end2end"):  # a head without NMS has two branches, and the file holds the other one
        net.end2end = False
    pictures = _host_photographs() if pictures is None else pictures
    outputs: list[OutputParity] = []
    detections = unmatched = 0
    for batch, imgsz in file.inputs:
        by_model, by_file = _run_both(net, file, pictures, batch, imgsz)
        outputs.extend(compare_outputs(by_model, by_file, file.task, net))
        found, lost = compare_detections(by_model, by_file, file.task, len(net.names))
        detections, unmatched = detections + found, unmatched + lost
    return ParityReport(
        model=str(getattr(model, "ckpt_path", None) or model.model_name),
        exported=str(exported),
        sha256=sha256(exported.read_bytes()).hexdigest(),
        runtime={
            "onnxruntime": file.runtime_version,
            "torch": torch.__version__,
            "ultralytics": ultralytics.__version__,
            "ela-yolo": ela_yolo.__version__,
        },
        images=tuple(pictures),
        outputs=tuple(outputs),
        detections=detections,
        unmatched=unmatched,
    )


def _run_both(
    net: Any, file: _OnnxFile, pictures: Mapping[str, Array], batch: int, imgsz: tuple[int, int]
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return the outputs of the model and of the file, for each image a list of tensors (1, ...)."""
    inputs = torch.cat([_network_input(picture, imgsz) for picture in pictures.values()])
    by_model: list[list[Tensor]] = []
    by_file: list[list[Tensor]] = []
    for start in range(0, len(inputs), batch):
        # Different images in one batch, the last one filled up from the front: so a mix-up within it shows.
        images = inputs[torch.arange(start, start + batch) % len(inputs)]
        with torch.no_grad():
            output = net(images.to(next(net.parameters()).device))
        output = output[0] if isinstance(output, tuple) else output  # the second entry is for training
        wanted = [y.cpu() for y in (output if isinstance(output, tuple) else (output,))]
        given = file.run(images)
        if [y.shape for y in wanted] != [y.shape for y in given]:
            raise ExportError(
                f"{file.file} gives outputs of shape {[tuple(y.shape) for y in given]}, its model "
                f"{[tuple(y.shape) for y in wanted]}; it is an export of another model, so export again"
            )
        for of_batch, of_all in ((wanted, by_model), (given, by_file)):
            of_all.extend([y[place : place + 1] for y in of_batch] for place in range(batch))
    return by_model, by_file


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
        batch, _, *sides = self.session.get_inputs()[0].shape
        # What it was exported at; with free axes another size and batch too, for those are what they are for.
        self.inputs = [(batch if isinstance(batch, int) else 1, (height, width))]
        if not all(isinstance(side, int) for side in sides):
            self.inputs.append((2, (height + 64, width + 32)))
        self.runtime_version = onnxruntime.__version__
        if self.task not in PROVABLE_TASKS:
            raise ExportError(f"{file}: the task {self.task} cannot be proven yet; add verify=False to export unproven")
        if metadata.get("head") == "RTDETRDecoder":
            raise ExportError(f"{file}: RT-DETR cannot be proven yet; add verify=False to export unproven")
        if metadata.get("end2end") == "True" or "'nms': True" in metadata["args"]:
            raise ExportError(
                f"{file} gives final detections, which cannot be proven yet; leave nms= out, "
                "add end2end=False where this Ultralytics exports so by itself, or add verify=False"
            )

    def run(self, batch: Tensor) -> list[Tensor]:
        feed = self.session.get_inputs()[0]
        try:
            outputs = self.session.run(None, {feed.name: batch.numpy()})
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
    pictures: dict[str, Array] = {}
    for file in files:
        picture = cv2.imread(str(file))
        if picture is None:
            raise ExportError(f"{file} is not an image that OpenCV can read; name images with source=")
        pictures[str(file)] = picture
    if len(pictures) < 2:
        raise ExportError("a proof needs at least two different images")
    return pictures


def _network_input(picture: Array, imgsz: tuple[int, int]) -> Tensor:
    boxed: Any = LetterBox(imgsz)(image=picture)  # (H, W, 3) BGR
    return torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1])).permute(2, 0, 1)[None].float() / 255
