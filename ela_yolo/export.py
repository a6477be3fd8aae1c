"""Proves an exported file: the same images through the file and through the model, every output compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.nms import non_max_suppression

from ela_yolo.errors import ExportError

Array = np.ndarray[Any, Any]

# What float32 arithmetic in another order may change, with room to spare; a wrong weight changes far more.
TOLERANCES = {"px": 0.05, "probability": 1e-3, "rad": 1e-3, "raw": 1e-2}
# The outputs of different images must differ by this many times more than file and model do.
MIN_CONTRAST = 100
CONFIDENCE, NMS_IOU = 0.001, 0.7  # as the host's validation counts detections
MATCH_IOU, MATCH_SCORE = 0.99, 1e-3
MAX_DETECTIONS = 300
PROVABLE_TASKS = frozenset({"classify", "detect", "obb", "pose", "segment"})


@dataclass(frozen=True)
class OutputParity:
    """How far one part of the raw outputs differs between file and model.

    Attributes:
        name: What the part holds, such as ``boxes``.
        unit: ``px`` of the network's input, ``probability``, ``rad`` or ``raw``.
        shape: Of one batch.
        max_error: Largest absolute difference over all images, in the unit.
        mean_error: Mean absolute difference over all images, in the unit.
        contrast: Largest difference between the model's outputs for two of the images, in the unit.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    contrast: float

    @property
    def tolerance(self) -> float:
        """The largest error that passes, in the unit."""
        return TOLERANCES[self.unit]

    @property
    def failure(self) -> str | None:
        """Why this part does not pass, or None."""
        if not self.max_error <= self.tolerance:  # NaN fails too
            return f"{self.name} differ by {self.max_error:.2g} {self.unit}, more than {self.tolerance:g}"
        if not self.contrast > max(MIN_CONTRAST * self.max_error, self.tolerance / MIN_CONTRAST):
            return (
                f"different images give almost the same {self.name} (within {self.contrast:.2g} {self.unit}), "
                "so equal outputs prove nothing; train the model first"
            )
        return None


@dataclass(frozen=True)
class ParityReport:
    """The proof of one exported file; ``str()`` of it is a table.

    Attributes:
        model: The PyTorch weights.
        exported: The exported file.
        runtime: What ran: package -> version.
        images: The images that went through both.
        outputs: One entry a part of the raw outputs.
        detections: How many the model finds in the images (for a classifier: how many images).
        unmatched: How many of them, or of the file's, have no counterpart in the other.
    """

    model: str
    exported: str
    runtime: dict[str, str]
    images: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    detections: int
    unmatched: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Every reason why the file is not proven; empty if it is."""
        failures = [part.failure for part in self.outputs if part.failure]
        if self.unmatched:
            failures.append(f"{self.unmatched} detections have no counterpart")
        return tuple(failures)

    @property
    def passed(self) -> bool:
        """Whether the file is the same model."""
        return not self.failures

    def __str__(self) -> str:
        rows = [("output", "shape", "max error", "mean error", "tolerance", "between images", "")]
        for part in self.outputs:
            rows.append(
                (
                    f"{part.name} ({part.unit})",
                    "x".join(map(str, part.shape)),
                    f"{part.max_error:.2g}",
                    f"{part.mean_error:.2g}",
                    f"{part.tolerance:g}",
                    f"{part.contrast:.2g}",
                    "differs" if part.failure else "same",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        verdict = "PROVEN the same model" if self.passed else f"NOT PROVEN: {'; '.join(self.failures)}"
        return (
            f"{self.exported} against {self.model}, {len(self.images)} images\n{table}\n"
            f"after NMS (confidence {CONFIDENCE:g}, IoU {NMS_IOU:g}): {self.detections} detections, "
            f"{self.unmatched} without a counterpart (IoU {MATCH_IOU:g}, score {MATCH_SCORE:g})\n{verdict}"
        )

    def save(self) -> Path:
        """Write the report as JSON beside the exported file and return its path."""
        file = Path(f"{self.exported}.parity.json")
        content = {**asdict(self), "passed": self.passed, "failures": self.failures}
        for part, written in zip(self.outputs, content["outputs"], strict=True):
            written["tolerance"] = part.tolerance
        unfinished = file.with_name(f".{file.name}.unfinished")
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(unfinished, file)
        return file


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
    net: Any = model.model
    net = net.float().eval()
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

    found, unmatched = _compare_detections(by_model, by_file, file.task, len(net.names))
    return ParityReport(
        model=str(getattr(model, "ckpt_path", None) or model.model_name),
        exported=str(exported),
        runtime={name: version(name) for name in ("onnxruntime", "torch", "ultralytics", "ela-yolo")},
        images=tuple(pictures),
        outputs=_compare_outputs(by_model, by_file, file.task, net),
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


def _parts(task: str, net: Any) -> list[list[tuple[str, str, slice | list[int]]]]:
    """Return what each raw output holds along its channels: name, unit, channels."""
    if task == "classify":
        return [[("probabilities", "probability", slice(None))]]
    rest = 4 + len(net.names)
    parts: list[tuple[str, str, slice | list[int]]] = [
        ("boxes", "px", slice(0, 4)),
        ("scores", "probability", slice(4, rest)),
    ]
    if task == "obb":
        parts.append(("angles", "rad", slice(rest, None)))
    if task == "pose":
        points, values = net.model[-1].kpt_shape
        channels = range(rest, rest + points * values)
        parts.append(("keypoints", "px", [c for c in channels if (c - rest) % values < 2]))
        if values == 3:
            parts.append(("visibilities", "probability", list(channels[2::3])))
    if task == "segment":
        parts.append(("mask coefficients", "raw", slice(rest, None)))
        return [parts, [("mask prototypes", "raw", slice(None))]]
    return [parts]


def _compare_outputs(
    by_model: Sequence[Sequence[Tensor]], by_file: Sequence[Sequence[Tensor]], task: str, net: Any
) -> tuple[OutputParity, ...]:
    compared = []
    for number, parts in enumerate(_parts(task, net)):
        for name, unit, channels in parts:
            wanted = torch.stack([outputs[number][:, channels] for outputs in by_model])  # (images, B, channels, ...)
            errors = (wanted - torch.stack([outputs[number][:, channels] for outputs in by_file])).abs()
            contrast = (wanted.amax(0) - wanted.amin(0)).max().item()
            shape = tuple(wanted.shape[1:])
            compared.append(OutputParity(name, unit, shape, errors.max().item(), errors.mean().item(), contrast))
    return tuple(compared)


def _compare_detections(
    by_model: Sequence[Sequence[Tensor]], by_file: Sequence[Sequence[Tensor]], task: str, classes: int
) -> tuple[int, int]:
    """Return how many detections the model has, and how many of both sides have no counterpart in the other."""
    found = unmatched = 0
    for wanted, given in zip(by_model, by_file, strict=True):
        if task == "classify":
            found += 1
            unmatched += int(wanted[0][0].argmax() != given[0][0].argmax())
            continue
        a, b = (_detections(outputs[0][:1], task, classes) for outputs in (wanted, given))
        iou = batch_probiou(_xywhr(a), _xywhr(b)) if task == "obb" else box_iou(a[:, :4], b[:, :4])
        same = (iou >= MATCH_IOU) & (a[:, None, 5] == b[None, :, 5])
        same &= (a[:, None, 4] - b[None, :, 4]).abs() <= MATCH_SCORE
        # What lies at the very edge of what NMS keeps may fall on either side of it.
        last = [d[-1, 4].item() for d in (a, b) if len(d) == MAX_DETECTIONS]
        edge = max([CONFIDENCE, *last]) + MATCH_SCORE / 10
        found += int((a[:, 4] > edge).sum())
        unmatched += int((~same.any(1) & (a[:, 4] > edge)).sum()) + int((~same.any(0) & (b[:, 4] > edge)).sum())
    return found, unmatched


def _detections(output: Tensor, task: str, classes: int) -> Tensor:
    """Return the detections of one image after NMS, best first: (N, 6 or more), box, score, class, rest."""
    kept = non_max_suppression(output, CONFIDENCE, NMS_IOU, max_det=MAX_DETECTIONS, nc=classes, rotated=task == "obb")
    return kept[0] if len(kept[0]) else torch.zeros(0, 7)


def _xywhr(detections: Tensor) -> Tensor:
    return torch.cat([detections[:, :4], detections[:, 6:7]], dim=1)
