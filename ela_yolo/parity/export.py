"""Exports a model by Ultralytics' own exporter and compares the file with the model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from ela_yolo.host.calls import count_parameters
from ela_yolo.host.older_releases import export_takes
from ela_yolo.host.patches import require_registered
from ela_yolo.parity.exported_file import ExportedFile
from ela_yolo.parity.images import Source, choose_images
from ela_yolo.parity.report import ParityReport, report_path
from ela_yolo.parity.runtimes import check_runtime, name_of_format
from ela_yolo.parity.verify import compare_file, open_to_compare

_MNN_LOGGER = "MNN.tools.utils.log"


def export_file(model: YOLO, overrides: Mapping[str, Any]) -> Path:
    """Export by Ultralytics' exporter and return the file. The report on an earlier file of that name is deleted."""
    with _without_mnn_logger() if overrides.get("format") == "mnn" else contextlib.nullcontext():
        exported = Path(model.export(**overrides))
    report_path(exported).unlink(missing_ok=True)
    return exported


def export(
    model: YOLO | str | Path,
    format: str = "onnx",
    source: Source | None = None,
    **export_keys: Any,
) -> ParityReport:
    """Export a model by Ultralytics' exporter, then compare the file with the model.

    The file, in the runtime of its format, and the model run on the same images, and all of their outputs and
    detections are compared. The file is written where Ultralytics writes it, beside the weights.

    Args:
        model: A checkpoint (.pt), or a loaded ``YOLO``.
        format: Ultralytics' name of a format: ``onnx``, ``torchscript``, ``openvino``, ``ncnn``, ``mnn``, ``litert``,
            ``executorch``.
        source: The images to compare with, two or more: a folder, a pattern such as ``images/*.jpg``, or image files.
            None means some validation images of ``data``, or two photographs that come with Ultralytics.
        **export_keys: Export keys of Ultralytics, such as ``imgsz=640`` (px), ``half=True`` or ``dynamic=True``. With
            ``data=``, a data set's YAML, the mAP of the file and the model on its validation images is compared too.

    Returns:
        The report, which names the file (``exported``) and says whether it matches (``passed``, ``verdict``).

    Raises:
        ExportError: If the format cannot be compared, the file cannot be run, a package is missing, or there are fewer
            than two images.
        InputError: If there is no such model, format or data set.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> report = export("best.pt", format="onnx", imgsz=640)  # doctest: +SKIP
        >>> report.exported, report.verdict  # doctest: +SKIP
        ('best.onnx', 'matches within the float32 tolerance')
    """
    require_registered()
    return export_and_compare(model, {**export_keys, "format": format}, source)[1]


def export_and_compare(
    model: YOLO | str | Path,
    overrides: Mapping[str, Any],
    source: Source | None = None,
) -> tuple[Path, ParityReport]:
    """Export a model and compare the file, as ``export`` does, and return the file and the report."""
    opened = open_to_compare(model)
    name = name_of_format(overrides.get("format"))
    check_runtime(name)
    data = overrides.get("data")
    images = choose_images(source, data, str(opened.task))
    taken = {key: value for key, value in overrides.items() if key != "data" or export_takes(key, name)}
    exported = export_file(opened, {**taken, "format": name})
    file = ExportedFile(exported, count_parameters(opened.model))
    return exported, compare_file(opened, file, images, data, overrides)


@contextlib.contextmanager
def _without_mnn_logger() -> Iterator[None]:
    """Keep the logger of MNN's converter from being imported: the import runs pip and calls a server."""
    if _MNN_LOGGER in sys.modules:
        yield
        return
    sys.modules[_MNN_LOGGER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_MNN_LOGGER]
