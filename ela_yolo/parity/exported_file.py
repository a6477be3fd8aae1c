"""An exported file in the runtime of its format, and its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ela_yolo.errors import ExportError
from ela_yolo.host.calls import open_backend
from ela_yolo.host.older_releases import bits_of
from ela_yolo.parity.detections import NmsSettings
from ela_yolo.parity.precision import stored_bits
from ela_yolo.parity.prepare_export import METADATA_KEY, NMS_KEYS
from ela_yolo.parity.runtimes import LARGEST, RUNTIMES, check_runtime, format_of, runtime_version
from ela_yolo.parity.tolerances import FLOAT16, FLOAT32, INT8
from ela_yolo.util.text import one_line

_TOLERANCES = {32: FLOAT32, 16: FLOAT16, 8: INT8}
Size = tuple[int, tuple[int, int]]  # batch, (height, width)


class ExportedFile:
    """An exported file, or the folder that some formats are, open in its runtime.

    Attributes:
        path: The file or folder.
        format: Ultralytics' name of its format.
        task: The task of the model.
        names: Class number -> name.
        stride: The model's largest stride.
        blocks: The ELA blocks, as ``describe_blocks`` gives them; None if the metadata lacks them.
        nms: The settings of the NMS in the file as far as its metadata has them, else Ultralytics' defaults.
        tolerance: The tolerance of its precision, which is that of its tensors.
        notes: Remarks for the report.
        kind: The kind of its first output: ``raw``, or final detections from ``end2end`` or ``nms``.
        dynamic: Whether its axes are free.
        inputs: The batches and sizes to compare at; with free axes, three others too.
        versions: The version of the package that runs it.

    Args:
        path: The file or folder.
        parameters: The number of the model's parameters.
    """

    def __init__(self, path: Path, parameters: int) -> None:
        if not path.exists():
            raise ExportError(f"{path} does not exist; export it first")
        self.path = path
        self.format = format_of(path)
        check_runtime(self.format, exporting=False)
        self.call, metadata = self._open()
        if not {"task", "imgsz", "names", "stride"} <= metadata.keys():
            made = f"ela-yolo export model=... format={self.format}"
            raise ExportError(f"{path} has no Ultralytics metadata; create it with: {made}")
        try:
            self._read(metadata, parameters)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ExportError(f"{path} has damaged metadata ({one_line(error)}); export it again") from error
        self.versions = runtime_version(self.format)

    def _open(self) -> tuple[Callable[[Tensor], Any], Mapping[str, Any]]:
        """Return the function that runs the file, and the metadata."""
        try:
            backend = open_backend(self.path)
            return _openvino_in_float32(self.path) if self.format == "openvino" else backend, backend.metadata
        except Exception as error:  # every runtime has its own types
            raise self._cannot_be_run(error) from error

    def _read(self, metadata: Mapping[str, Any], parameters: int) -> None:
        """Convert the metadata, which may come from anywhere, to plain values."""
        args = dict(metadata.get("args") or {})
        self.task = str(metadata["task"])
        bits = bits_of(args)
        told = getattr(_TOLERANCES.get(bits), "precision", repr(bits))
        self.tolerance = _TOLERANCES[stored_bits(self.path, self.format, parameters)]
        self.notes = [
            f"the file's metadata says {told}, and most of its weights are {self.tolerance.precision}, which counts"
        ] * (told != self.tolerance.precision)
        self.kind = "nms" if args.get("nms") else "end2end" if metadata.get("end2end") else "raw"
        self.dynamic = bool(args.get("dynamic"))
        self.names = {int(key): str(name) for key, name in dict(metadata["names"]).items()}
        self.stride = int(metadata["stride"])
        entry = json.loads(metadata.get(METADATA_KEY) or "{}")
        self.blocks = entry.get("blocks")
        self.nms = with_settings(NmsSettings(), entry.get("nms") or {})
        height, width = map(int, metadata["imgsz"])
        batch = int(metadata.get("batch", 1))
        if not all(0 < each <= LARGEST for each in (height, width, batch, self.stride)):
            raise ValueError(f"a batch of {batch} images of {height}x{width} px, stride {self.stride}")
        self.inputs: list[Size] = [(batch, (height, width))]
        if self.dynamic:
            # Some files refuse a larger batch than they were exported with.
            two, three = (1, 1) if self.kind == "nms" else (2, 3)
            step = self.stride
            sizes = (height + 2 * step, width + step), (height, width + 2 * step), (height + step, width)
            self.inputs += [*zip((two, three, 1), sizes, strict=True)]

    def run(self, batch: Tensor) -> list[Tensor]:
        """Return the outputs for a batch of images, ``(batch, channels, H, W)``, on the CPU in float32."""
        try:
            outputs = self.call(batch)
        except Exception as error:  # every runtime has its own types
            raise self._cannot_be_run(error) from error
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [torch.as_tensor(output).detach().cpu().float() for output in outputs]

    def _cannot_be_run(self, error: Exception) -> ExportError:
        runtime = RUNTIMES[self.format][0]
        return ExportError(f"{self.path} cannot be run by {runtime}, so export it again ({one_line(error)})")


def with_settings(nms: NmsSettings, given: Mapping[str, Any]) -> NmsSettings:
    """Return the settings of NMS with those replaced that are given; None, and other keys, are left out.

    Raises:
        ValueError: If ``conf`` or ``iou`` is not a number from 0 to 1.
    """
    nms = replace(nms, **{key: given[key] for key in NMS_KEYS if given.get(key) is not None})
    for key in ("conf", "iou"):
        value = getattr(nms, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{key} must be a number from 0 to 1, got {value!r}")
    return nms


def _openvino_in_float32(path: Path) -> Callable[[Tensor], list[Any]]:
    """Return what runs an OpenVINO file in float32; on some CPUs OpenVINO computes in bfloat16 by default."""
    import openvino

    file = path if path.is_file() else next(path.glob("*.xml"))
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: list(compiled(images.numpy()).values())
