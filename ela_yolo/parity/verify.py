"""Compares an exported file with its model: both run on the same images, the file in the runtime of its format."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics import YOLO

from ela_yolo._version import __version__
from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.lookup import check_model
from ela_yolo.parity.detections import NmsSettings
from ela_yolo.parity.exported_file import DENSE_TASKS, FileComparison, as_exported
from ela_yolo.parity.images import Images, batches, find_images, find_validation_images, packaged_photographs
from ela_yolo.parity.metadata import NMS_KEYS, describe_blocks
from ela_yolo.parity.outputs import OutputParity
from ela_yolo.parity.report import NonFinite, ParityReport, Unmatched
from ela_yolo.parity.runtimes import UNCHECKED, ExportedFile
from ela_yolo.util.files import sha256
from ela_yolo.util.text import did_you_mean

TASKS = frozenset({"classify", "detect", "obb", "pose", "segment", *DENSE_TASKS})
METRICS = {
    "segment": "metrics/mAP50-95(M)",
    "pose": "metrics/mAP50-95(P)",
    "classify": "metrics/accuracy_top1",
    "semantic": "metrics/mIoU",
    "depth": "metrics/delta1",
}
CHANNELS = (1, 3)
WITH_EFFECT = {  # kind of a file -> the settings of NMS that have an effect in it
    "nms": NMS_KEYS,
    "end2end": ("agnostic_nms",),
    "raw": (),
}


def verify_export(
    model: YOLO | str | Path,
    exported: str | Path,
    images: str | Path | Iterable[str | Path] | None = None,
    data: str | None = None,
    nms: Mapping[str, float] | None = None,
) -> ParityReport:
    """Run an exported file and its model on the same images, and compare all outputs and detections.

    Args:
        model: The checkpoint (.pt) that the file was exported from, or the loaded ``YOLO``.
        exported: The file, or the folder, that Ultralytics' exporter wrote.
        images: The images to compare with, two or more: a folder, a pattern such as ``images/*.jpg``, or image files.
            None means some validation images of ``data``, or photographs that come with Ultralytics.
        data: A data set's YAML. The mAP of the file and the model on its validation images is compared too.
        nms: For a file with NMS in it, the settings that it was exported with: ``conf``, ``iou``, ``agnostic_nms``,
            ``max_det``. The others are read from the file's metadata; without it they are Ultralytics' defaults.

    Returns:
        The report, which says whether the file matches (``passed``, ``verdict``).

    Raises:
        ExportError: If the file cannot be run, its kind cannot be compared, or an image cannot be read.
        InputError: If there is no such model, the data set has no validation images, or ``nms`` does not suit the file.
        CheckpointError: If there is no such checkpoint.

    Example:
        >>> report = verify_export("best.pt", "best.onnx")  # doctest: +SKIP
        >>> report.passed, report.verdict  # doctest: +SKIP
        (True, 'matches within the float32 tolerance')
    """
    if not isinstance(model, YOLO):
        check_model(str(model))
        model = YOLO(model)
    check_kind(model)
    pictures = choose_images(model, images, data)
    file = ExportedFile(Path(exported))
    given = {key: value for key, value in (nms or {}).items() if value is not None}
    for key in given:
        if key not in NMS_KEYS:
            near = did_you_mean(key, NMS_KEYS) or "; it has " + ", ".join(NMS_KEYS)
            raise InputError(f"nms has no key {key!r}{near}")
        if key not in WITH_EFFECT[file.kind]:
            raise InputError(f"{exported} has no NMS in it, so {key} has no effect; leave it out")
    return compare_file(model, file, pictures, data, given)


def check_kind(model: Any) -> None:
    """Check that files of a model can be compared with it.

    Raises:
        ExportError: If they cannot, by the model's task, head or channels.
    """
    net = model.model
    head = type(net.model[-1]).__name__
    if model.task not in TASKS or head == "RTDETRDecoder":
        raise ExportError(f"a model with the head {head} {UNCHECKED}")
    if channels_of(net) not in CHANNELS:
        raise ExportError(f"a model of {channels_of(net)}-channel images {UNCHECKED}")


def channels_of(net: Any) -> int:
    """Return the number of channels of a model's images."""
    return int(net.yaml.get("channels", 3))


def choose_images(model: YOLO, images: str | Path | Iterable[str | Path] | None, data: str | None) -> Images:
    """Return the images to compare with: those that are named, else some of a data set, else Ultralytics' photographs.

    Raises:
        ExportError: If an image cannot be read, or there are fewer than two.
        InputError: If the data set has no validation images.
    """
    channels = channels_of(model.model)
    if isinstance(images, str | Path):
        images = find_images(str(images))
    if images is not None:
        return Images.of_files(images, channels)
    if data is not None:
        return Images.of_files(find_validation_images(data, str(model.task)), channels)
    return packaged_photographs(channels)


def compare_file(
    model: YOLO,
    file: ExportedFile,
    images: Images,
    data: str | None,
    given: Mapping[str, Any],
) -> ParityReport:
    """Compare a file with its model, as :func:`verify_export` does.

    Args:
        model: The model.
        file: The file.
        images: The images to compare with.
        data: A data set on which mAP is compared; None means none.
        given: The keys that the file was exported with; only those of :data:`WITH_EFFECT` count.

    Raises:
        ExportError: If file and model have different tasks, or the file cannot be run.
        InputError: If a setting of NMS is not a number from 0 to 1.
    """
    if file.task != model.task:
        raise ExportError(
            f"{file.path} has the task {file.task}, and the model {model.task}; name the model of this file"
        )
    settings = _nms_settings(file, given)
    net = as_exported(deepcopy(model.model), file, settings)
    outputs: list[OutputParity] = []
    unmatched: list[Unmatched] = []
    nonfinite: list[NonFinite] = []
    detections = 0
    for batch, imgsz in file.inputs:
        compared = FileComparison(net, file, settings)
        names = iter(images)
        for each in batches(images, batch, imgsz):
            compared.add(each, [next(names, "an image once more") for _ in each])
        outputs += compared.outputs()
        unmatched += compared.unmatched
        nonfinite += compared.nonfinite
        detections += compared.found
    return ParityReport(
        model=str(getattr(model, "ckpt_path", None) or model.model_name),
        exported=str(file.path),
        sha256=_sha256(file.path),
        task=file.task,
        tolerance=compared.tolerance,
        runtime={
            **file.versions,
            "torch": torch.__version__,
            "ultralytics": ultralytics.__version__,
            "ela-yolo": __version__,
        },
        images=tuple(images),
        inputs=tuple((batch, *imgsz) for batch, imgsz in file.inputs),
        outputs=tuple(outputs),
        detections=None if file.task in DENSE_TASKS else detections,
        unmatched=tuple(unmatched),
        nonfinite=tuple(nonfinite),
        nms=compared.nms if file.kind == "nms" else None,
        mismatches=tuple(_mismatches(net, file)),
        scores=None if data is None else _scores(model, file, data, compared.nms),
    )


def _nms_settings(file: ExportedFile, given: Mapping[str, Any]) -> NmsSettings:
    """Return the settings of the NMS in a file: those given, else its metadata's, else Ultralytics' defaults."""
    told = {**file.nms, **given}
    settings = replace(NmsSettings(), **{key: told[key] for key in WITH_EFFECT[file.kind] if told.get(key) is not None})
    for key in ("conf", "iou"):
        value = getattr(settings, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{key} must be a number from 0 to 1, got {value!r}")
    return settings


def _mismatches(net: Any, file: ExportedFile) -> Iterator[str]:
    """Yield each statement of the file's metadata that is wrong."""
    wrong = [key for key in {**net.names, **file.names} if file.names.get(key) != net.names.get(key)]
    if wrong:
        first = wrong[0]
        yield (
            f"class {first} is {file.names.get(first)!r} in the file's metadata "
            f"and {net.names.get(first)!r} in the model"
        )
    stride = int(max(net.stride))
    if file.stride != stride:
        yield f"the stride is {file.stride} in the file's metadata and {stride} in the model"
    if file.blocks is not None and file.blocks != describe_blocks(net):
        yield "the ELA blocks in the file's metadata are not the model's"


def _scores(model: YOLO, file: ExportedFile, data: str, nms: NmsSettings) -> tuple[str, float, float]:
    """Return the metric of the model and of the file on a data set: its name and both values."""
    metric = METRICS.get(file.task, "metrics/mAP50-95(B)")
    values = []
    with tempfile.TemporaryDirectory() as folder:
        keys: dict[str, Any] = {
            "imgsz": max(file.inputs[0][1]),
            "batch": file.inputs[0][0],
            "rect": False,
            "plots": False,
        }
        if file.kind == "nms":  # or its limits would count as a loss of mAP
            keys |= asdict(nms)
        for each in (_copied(model), YOLO(str(file.path), task=file.task)):
            results: Any = each.val(data=data, project=folder, verbose=False, device="cpu", workers=0, **keys)
            values.append(float(results.results_dict[metric]))
    return metric.removeprefix("metrics/"), values[0], values[1]


def _copied(model: YOLO) -> YOLO:
    """Return a copy of the model that validation may fuse, without copying a trainer that the model may hold."""
    copied = copy(model)
    copied._modules = {**model._modules, "model": deepcopy(model.model)}  # type: ignore[dict-item]
    return copied


def _sha256(exported: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if not exported.is_dir():
        return sha256(exported)
    files = sorted(each for each in exported.rglob("*") if each.is_file())
    listed = (f"{sha256(file)} {file.relative_to(exported).as_posix()}\n" for file in files)
    return hashlib.sha256("".join(listed).encode()).hexdigest()
