"""Compares an exported file with its model: both run on the same images, the file in the runtime of its format."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ultralytics import RTDETR, YOLO

from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.calls import count_parameters, export_suffixes, package_versions
from ela_yolo.host.lookup import YAML, check_data, open_model
from ela_yolo.host.scoring import METRICS
from ela_yolo.parity.comparison import FileComparison, as_exported
from ela_yolo.parity.detections import NmsSettings
from ela_yolo.parity.exported_file import ExportedFile, with_settings
from ela_yolo.parity.images import Source, batches, choose_images
from ela_yolo.parity.prepare_export import describe_blocks
from ela_yolo.parity.report import ParityReport
from ela_yolo.parity.runtimes import UNCHECKED

TASKS = ("classify", "detect", "obb", "pose", "segment")
CHANNELS = (1, 3)


def verify_export(
    model: YOLO | str | Path,
    exported: str | Path,
    images: Source | None = None,
    data: str | None = None,
) -> ParityReport:
    """Run an exported file and its model on the same images, and compare all outputs and detections.

    Args:
        model: The checkpoint (.pt) that the file was exported from, or the loaded ``YOLO``.
        exported: The file, or the folder, that Ultralytics' exporter wrote.
        images: The images to compare with, two or more: a folder, a pattern such as ``images/*.jpg``, or image files.
            None means some validation images of ``data``, or two photographs that come with Ultralytics.
        data: A data set's YAML. The mAP of the file and the model on its validation images is compared too.

    Returns:
        The report, which says whether the file matches (``passed``, ``verdict``).

    Raises:
        ExportError: If the file cannot be run, its kind cannot be compared, or an image cannot be read.
        InputError: If there is no such model, the arguments are swapped, or the data set has no validation images.
        CheckpointError: If there is no such checkpoint.

    Examples:
        >>> report = verify_export("best.pt", "best.onnx")  # doctest: +SKIP
        >>> report.passed, report.verdict  # doctest: +SKIP
        (True, 'matches within the float32 tolerance')
    """
    if _is_exported(model) and (isinstance(exported, YOLO) or str(exported).endswith((".pt", *YAML))):
        raise InputError(f"{_name(model)} is an exported file and {_name(exported)} a model; swap the two")
    opened = open_to_compare(model)
    if data is not None:
        check_data(data)
    files = choose_images(images, data, str(opened.task))
    file = ExportedFile(Path(exported), count_parameters(opened.model))
    return compare_file(opened, file, files, data, {})


def open_to_compare(model: Any) -> YOLO:
    """Return the ``YOLO`` of a checkpoint, or the given one, if its exported files can be compared with it."""
    if _is_exported(model):
        raise InputError(f"{_name(model)} is an exported file; name the checkpoint (.pt) that it was exported from")
    if isinstance(model, str | Path):
        model = open_model(model)
    if not isinstance(model, YOLO | RTDETR):
        raise InputError(f"a model is a checkpoint (.pt) or a YOLO object, not a {type(model).__name__} object")
    net: Any = model.model
    head = type(net.model[-1]).__name__
    if not isinstance(model, YOLO) or model.task not in TASKS or head == "RTDETRDecoder":
        raise ExportError(f"a model with the head {head} {UNCHECKED}")
    if channels_of(net) not in CHANNELS:
        raise ExportError(f"a model of {channels_of(net)}-channel images {UNCHECKED}")
    return model


def _is_exported(model: Any) -> bool:
    """Return whether a model is an exported file, by its name or as a ``YOLO`` object."""
    return _name(model).rstrip("/").endswith(tuple(export_suffixes().values()))


def _name(model: Any) -> str:
    """Return the name of a model's file; "" for an object that is not one."""
    if isinstance(model, YOLO | RTDETR):
        model = model.model if isinstance(model.model, str) else getattr(model, "ckpt_path", None) or model.model_name
    return str(model) if isinstance(model, str | Path) else ""


def channels_of(net: Any) -> int:
    """Return the number of channels of a model's images."""
    return int(net.yaml.get("channels", 3))


def compare_file(
    model: YOLO, file: ExportedFile, images: Sequence[Path], data: str | None, given: Mapping[str, Any]
) -> ParityReport:
    """Compare a file with its model, as ``verify_export`` does.

    Args:
        model: The model.
        file: The file.
        images: The images to compare with.
        data: A data set on which mAP is compared; None means none.
        given: The keys that the file was exported with, as far as they are known; only those of NMS count.
    """
    if file.task != model.task:
        raise ExportError(
            f"{file.path} has the task {file.task}, and the model {model.task}; name the model of this file"
        )
    nms = _nms_settings(file, images, channels_of(model.model), given)
    net = as_exported(deepcopy(model.model), file, nms)
    compared = FileComparison(net, file, nms)
    for batch, imgsz in file.inputs:
        for files, tensor in batches(images, channels_of(net), batch, imgsz):
            compared.add(tensor, files)
    height, width = file.inputs[0][1]
    notes = [*file.notes]
    without_map = data is not None and height != width and not file.dynamic
    if without_map:
        notes.append(
            f"mAP was not compared: Ultralytics validates models at square sizes, and the file has {height}x{width} px"
        )
    return ParityReport(
        model=_name(model),
        exported=str(file.path),
        task=file.task,
        tolerance=compared.tolerance,
        runtime={**file.versions, **package_versions()},
        images=tuple(map(str, images)),
        inputs=tuple((batch, *imgsz) for batch, imgsz in file.inputs),
        outputs=tuple(compared.outputs()),
        detections=compared.found,
        unmatched=tuple(compared.unmatched),
        extra=compared.extra,
        nonfinite=tuple(compared.nonfinite),
        nms=nms if file.kind == "nms" else None,
        mismatches=tuple(_mismatches(net, file)),
        scores=None if data is None or without_map else _scores(model, file, data, nms),
        notes=tuple(notes),
    )


def _nms_settings(file: ExportedFile, images: Sequence[Path], channels: int, given: Mapping[str, Any]) -> NmsSettings:
    """Return the settings of the NMS in a file: those given, else its metadata's; ``max_det`` is that of its output."""
    if file.kind == "raw":
        return NmsSettings()
    _, first = next(batches(images, channels, *file.inputs[0]))
    return replace(with_settings(file.nms, given), max_det=file.run(first)[0].shape[1])


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
    """Return the metric of the model and of the file on a data set, at the same size: its name and both values."""
    key = METRICS[file.task].key
    keys: dict[str, Any] = {"imgsz": max(file.inputs[0][1]), "batch": file.inputs[0][0], "rect": False}
    keys |= {"plots": False, "device": "cpu"}
    if file.kind == "nms":  # or its limits would count as a loss of mAP
        keys |= asdict(nms)
    elif file.kind == "end2end":
        keys["nms"] = False  # or the model would be validated by its other branch, since 8.4.178
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for each in (_copied(model), YOLO(str(file.path), task=file.task)):
            results: Any = each.val(data=data, project=folder, verbose=False, workers=0, **keys)
            values.append(float(results.results_dict[key]))
    return key.removeprefix("metrics/"), values[0], values[1]


def _copied(model: YOLO) -> YOLO:
    """Return a copy of the model that validation may fuse, without copying a trainer that the model may hold."""
    copied = copy(model)
    copied._modules = {**model._modules, "model": deepcopy(model.model)}  # type: ignore[dict-item]
    return copied
