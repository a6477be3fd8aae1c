"""Exports a model and proves the file: the same images through the file, in its own runtime, and through the model."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from copy import copy, deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import torch
import ultralytics
from ultralytics import YOLO
from ultralytics.engine.exporter import export_formats

import ela_yolo
from ela_yolo.comparison import FileComparison, nms_settings
from ela_yolo.errors import ExportError, plain
from ela_yolo.export_hook import METADATA_KEY, describe_blocks
from ela_yolo.images import Array, batches, find_validation_images, host_photographs, read_images
from ela_yolo.parity import OutputParity, ParityReport, Unmatched, report_path
from ela_yolo.runtimes import UNPROVEN, ExportedFile, check_runtime, name_of_format, openvino_precision
from ela_yolo.tolerances import FLOAT32

PROVABLE_TASKS = frozenset({"classify", "detect", "obb", "pose", "segment"})
METRICS = {"segment": "metrics/mAP50-95(M)", "pose": "metrics/mAP50-95(P)", "classify": "metrics/accuracy_top1"}


def check_provable(model: Any, overrides: Mapping[str, Any]) -> None:
    """Find out before an export whether its file can be proven.

    Args:
        model: The model to export.
        overrides: The host's export keys.

    Raises:
        ExportError: If it cannot, or if a package that is needed is missing.
    """
    name = name_of_format(overrides.get("format"))
    _check_kind(model)
    check_runtime(name, quantizing=overrides.get("int8") is True or overrides.get("quantize") == 8)


def export_unproven(model: YOLO, overrides: Mapping[str, Any]) -> Path:
    """Export by the host's exporter and return the file; the proof of a former one of that name is deleted."""
    if overrides.get("format") == "mnn":  # at import its converter's logger runs pip and calls its maker's server
        sys.modules.setdefault("MNN.tools.utils.log", None)  # type: ignore[arg-type]
    exported = Path(model.export(**overrides))
    report_path(exported).unlink(missing_ok=True)
    if exported.suffix == ".onnx":
        _sort_nodes(exported)
    return exported


def export(
    model: YOLO, overrides: Mapping[str, Any], images: Iterable[str | Path] | None = None
) -> tuple[Path, ParityReport]:
    """Export by the host's exporter and prove the file.

    Args:
        model: The model to export.
        overrides: The host's export keys; with ``data``, the proof is made with it as in :func:`verify_export`.
        images: As in :func:`verify_export`.

    Returns:
        The exported file and its proof, which may have failed.

    Raises:
        ExportError: As in :func:`check_provable` and :func:`verify_export`.
    """
    check_provable(model, overrides)
    data = overrides.get("data")
    pictures = _pictures(model, images, data)
    taken = dict(zip(*(export_formats()[column] for column in ("Argument", "Arguments")), strict=True))
    by_the_host = {key: value for key, value in overrides.items() if key != "data" or key in taken[overrides["format"]]}
    exported = export_unproven(model, by_the_host)
    return exported, _verify(model, exported, pictures, data, overrides)


def verify_export(
    model: YOLO | str | Path,
    exported: str | Path,
    images: Iterable[str | Path] | None = None,
    data: str | None = None,
    nms: Mapping[str, float] | None = None,
) -> ParityReport:
    """Run an exported file and its PyTorch model on the same real images and compare all that comes out.

    Args:
        model: The weights that the file was made from, or the loaded model.
        exported: The file, or the folder, that the host's exporter wrote.
        images: Two or more different images; left out, some of ``data``, or photographs from the host's package and
            parts of them.
        data: A data set, on whose validation images the metric of both is computed too.
        nms: For a file with NMS in it, what it was exported with if not with the host's defaults: ``conf``, ``iou``.

    Raises:
        ExportError: If the file cannot be run or is of a kind that cannot be proven, or an image cannot be read.
    """
    model = model if isinstance(model, YOLO) else YOLO(model)
    _check_kind(model)
    return _verify(model, Path(exported), _pictures(model, images, data), data, nms or {})


def _check_kind(model: Any) -> None:
    net = model.model
    head = type(net.model[-1]).__name__
    if model.task not in PROVABLE_TASKS or head == "RTDETRDecoder":
        raise ExportError(f"a model with the head {head} {UNPROVEN}")
    if net.yaml.get("channels", 3) != 3:
        raise ExportError(f"a model of {net.yaml['channels']}-channel images {UNPROVEN}")


def _pictures(model: YOLO, images: Iterable[str | Path] | None, data: str | None) -> dict[str, Array]:
    if images is not None:
        return read_images(images)
    return host_photographs() if data is None else read_images(find_validation_images(data, str(model.task)))


def _verify(
    model: YOLO, exported: Path, pictures: Mapping[str, Array], data: str | None, nms: Mapping[str, Any]
) -> ParityReport:
    file = ExportedFile(exported)
    if file.task != model.task:
        raise ExportError(f"{exported} is of the task {file.task}, its model of {model.task}; name the model it is of")
    net: Any = model.model
    net = deepcopy(net).float().cpu().eval()
    if hasattr(net, "end2end"):  # such a head has two branches, and the file holds one of them
        net.end2end = file.kind == "end2end"
    outputs: list[OutputParity] = []
    unmatched: list[Unmatched] = []
    detections = 0
    for batch, imgsz in file.inputs:
        compared = FileComparison(net, file, nms)
        names = iter(pictures)
        for images in batches(pictures, batch, imgsz):
            compared.add(images, [next(names, "an image once more") for _ in images])
        outputs += compared.outputs()
        unmatched += compared.unmatched
        detections += compared.found
    return ParityReport(
        model=str(getattr(model, "ckpt_path", None) or model.model_name),
        exported=str(exported),
        sha256=_sha256(exported),
        tolerance=file.tolerance,
        runtime={
            **file.versions,
            "torch": torch.__version__,
            "ultralytics": ultralytics.__version__,
            "ela-yolo": ela_yolo.__version__,
        },
        images=tuple(pictures),
        inputs=tuple((batch, *imgsz) for batch, imgsz in file.inputs),
        outputs=tuple(outputs),
        detections=detections,
        unmatched=tuple(unmatched),
        mismatches=tuple(_mismatches(net, file)),
        scores=None if data is None else _scores(model, file, data, nms),
        notes=tuple(_run_otherwise(net, file, pictures)),
    )


def _mismatches(net: Any, file: ExportedFile) -> Iterator[str]:
    """Yield what the file says of itself that is not so."""
    names = {int(key): value for key, value in dict(file.metadata["names"]).items()}
    wrong = [key for key in {**net.names, **names} if names.get(key) != net.names.get(key)]
    if wrong:
        first = wrong[0]
        yield f"class {first} is {names.get(first)!r} in the file's metadata and {net.names.get(first)!r} in the model"
    stride = int(max(net.stride))
    if int(file.metadata["stride"]) != stride:
        yield f"the stride is {file.metadata['stride']} in the file's metadata and {stride} in the model"
    if METADATA_KEY in file.metadata:
        blocks = json.loads(file.metadata[METADATA_KEY])["blocks"]
        if blocks != describe_blocks(net):
            yield "the ELA blocks in the file's metadata are not the model's"
    if file.format == "onnx":
        import onnx

        try:
            onnx.checker.check_model(str(file.path), full_check=True)
        except Exception as error:  # of several types
            yield f"onnx.checker refuses the file ({plain(error)})"


def _sort_nodes(file: Path) -> None:
    """Put the nodes of an ONNX file into the order that the format asks for; the host's float16 export lacks it."""
    import onnx

    model = onnx.load(file)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        with contextlib.suppress(Exception):  # what is wrong otherwise stays, and the proof tells
            from onnxruntime.transformers.onnx_model import OnnxModel

            sorted_model = OnnxModel(model)
            sorted_model.topological_sort()
            sorted_model.save_model_to_file(str(file))


def _scores(model: YOLO, file: ExportedFile, data: str, nms: Mapping[str, Any]) -> tuple[str, float, float]:
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
        if file.kind == "nms":  # what it drops is no loss by the export
            keys |= nms_settings(nms)
        for each in (_copied(model), YOLO(str(file.path), task=file.task)):
            results: Any = each.val(data=data, project=folder, verbose=False, device="cpu", workers=0, **keys)
            values.append(float(results.results_dict[metric]))
    return metric.removeprefix("metrics/"), values[0], values[1]


def _copied(model: YOLO) -> YOLO:
    """Return a copy of the model whose layers validation may fuse, without the trainer that it may hold."""
    copied = copy(model)
    copied._modules = {**model._modules, "model": deepcopy(model.model)}  # type: ignore[dict-item]
    return copied


def _run_otherwise(net: Any, file: ExportedFile, pictures: Mapping[str, Array]) -> Iterator[str]:
    """Yield how the file does when run as others do, which is worth knowing and does not decide.

    An ONNX file by OpenCV's DNN module, an OpenVINO file in the precision that OpenVINO takes by default.
    """
    if file.kind != "raw" or file.tolerance is not FLOAT32:
        return
    if file.format == "onnx":
        runs = f"OpenCV {cv2.__version__} runs it"
    elif file.format == "openvino" and (precision := openvino_precision()) != "f32":
        runs = f"OpenVINO by default runs it in {precision} on this CPU, without INFERENCE_PRECISION_HINT=f32,"
    else:
        return
    first = dict(list(pictures.items())[:2])
    batch, imgsz = file.inputs[0]
    try:
        compared = FileComparison(net, ExportedFile(file.path, otherwise=True), {})
        for images in batches(first, batch, imgsz):
            compared.add(images, [*first][: len(images)])
    except ExportError as error:
        yield f"{runs} not: {plain(error.__cause__ or error)[:100]}"
        return
    outputs = compared.outputs()
    wrong = any(part.verdict == "differs" for part in outputs)
    errors = ", ".join(f"{part.name} {part.max_error:.2g} {part.unit}" for part in outputs)
    yield f"{runs} {'with other results' if wrong else 'the same'}: largest errors {errors}"


def _sha256(exported: Path) -> str:
    files = sorted(exported.rglob("*")) if exported.is_dir() else [exported]
    digest = sha256()
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
