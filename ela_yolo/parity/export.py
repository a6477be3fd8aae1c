"""Exports a model with Ultralytics' own exporter, and has the file compared with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ultralytics import YOLO
from ultralytics.engine.exporter import export_formats

from ela_yolo.parity.report import ParityReport, report_path
from ela_yolo.parity.runtimes import ExportedFile, check_runtime, name_of_format
from ela_yolo.parity.verify import check_kind, choose_images, compare_file

_MNN_LOGGER = "MNN.tools.utils.log"


def check_before_export(model: Any, overrides: Mapping[str, Any]) -> None:
    """Find out before an export whether its file can be compared with the model.

    Args:
        model: The model to export.
        overrides: The export keys of Ultralytics.

    Raises:
        ExportError: If it cannot, or if a package that is needed is missing.
    """
    name = name_of_format(overrides.get("format"))
    check_kind(model)
    check_runtime(name, quantizing=overrides.get("int8") is True or overrides.get("quantize") == 8)


def export_file(model: YOLO, overrides: Mapping[str, Any]) -> Path:
    """Export by Ultralytics' exporter and return the file; the report on a former one of that name is deleted."""
    with _without_mnn_logger() if overrides.get("format") == "mnn" else contextlib.nullcontext():
        exported = Path(model.export(**overrides))
    report_path(exported).unlink(missing_ok=True)
    if exported.suffix == ".onnx":
        _sort_nodes(exported)
    return exported


def export(
    model: YOLO,
    overrides: Mapping[str, Any],
    images: Iterable[str | Path] | None = None,
    layers: bool = False,
) -> tuple[Path, ParityReport]:
    """Export by Ultralytics' exporter and compare the file with the model.

    Args:
        model: The model to export.
        overrides: The export keys of Ultralytics; with ``data``, it is compared with as in :func:`verify_export`.
        images: As in :func:`verify_export`.
        layers: As in :func:`verify_export`.

    Returns:
        The exported file and the report, which may say that it does not match.

    Raises:
        ExportError: As in :func:`check_before_export` and :func:`verify_export`.
        InputError: As in :func:`verify_export`.
    """
    check_before_export(model, overrides)
    data = overrides.get("data")
    pictures = choose_images(model, images, data)
    taken = dict(zip(*(export_formats()[column] for column in ("Argument", "Arguments")), strict=True))
    refused = {"data"} - {*taken[overrides["format"]]}
    exported = export_file(model, {key: value for key, value in overrides.items() if key not in refused})
    return exported, compare_file(model, ExportedFile(exported), pictures, data, overrides, layers)


@contextlib.contextmanager
def _without_mnn_logger() -> Iterator[None]:
    """Keep the logger of MNN's converter out, which at import runs pip and calls its maker's server."""
    if _MNN_LOGGER in sys.modules:
        yield
        return
    sys.modules[_MNN_LOGGER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_MNN_LOGGER]


def _sort_nodes(file: Path) -> None:
    """Put the nodes of an ONNX file into the order that the format asks for; Ultralytics' float16 export lacks it."""
    import onnx

    model = onnx.load(file)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        with contextlib.suppress(Exception):  # what is wrong otherwise stays, and the comparison tells
            from onnxruntime.transformers.onnx_model import OnnxModel

            sorted_model = OnnxModel(model)
            sorted_model.topological_sort()
            sorted_model.save_model_to_file(str(file))
