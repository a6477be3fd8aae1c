"""Exported files, run by the runtime of their own format; Ultralytics' AutoBackend drives it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ultralytics.engine.exporter import export_formats
from ultralytics.nn.autobackend import AutoBackend

from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.versions import bits_of, load_yaml
from ela_yolo.parity.metadata import METADATA_KEY
from ela_yolo.parity.tolerances import FLOAT16, FLOAT32, INT8
from ela_yolo.util.fresh_interpreter import run_isolated
from ela_yolo.util.text import did_you_mean, one_line

_TOLERANCES = {32: FLOAT32, 16: FLOAT16, 8: INT8}
Size = tuple[int, tuple[int, int]]  # batch, (height, width)


@dataclass(frozen=True)
class Runtime:
    """What a format is exported with and run by.

    Attributes:
        runs: The package that runs it: import name, distribution.
        exports: What else the export needs, likewise.
        quantizes: What else the export to int8 needs, likewise.
        extra: The extra of ela-yolo that installs all of it; None if it has to be named package by package.
    """

    runs: tuple[str, str]
    exports: tuple[tuple[str, str], ...] = ()
    quantizes: tuple[tuple[str, str], ...] = ()
    extra: str | None = None


RUNTIMES: Mapping[str, Runtime] = {
    "torchscript": Runtime(("torch", "torch")),
    "onnx": Runtime(("onnxruntime", "onnxruntime"), (("onnx", "onnx"), ("onnxslim", "onnxslim")), extra="export"),
    "openvino": Runtime(("openvino", "openvino"), quantizes=(("nncf", "nncf"),)),
    "engine": Runtime(("tensorrt", "tensorrt"), (("onnx", "onnx"), ("onnxslim", "onnxslim"))),
    "ncnn": Runtime(("ncnn", "ncnn"), (("pnnx", "pnnx"),)),
    "mnn": Runtime(("MNN", "MNN"), (("onnx", "onnx"), ("onnxslim", "onnxslim"))),
    "litert": Runtime(
        ("ai_edge_litert", "ai-edge-litert"),
        (("litert_torch", "litert-torch"),),
        (("ai_edge_quantizer", "ai-edge-quantizer"),),
    ),
    "executorch": Runtime(("executorch", "executorch")),
    "coreml": Runtime(("coremltools", "coremltools")),
}
UNCHECKED = "cannot be compared here; add verify=False to export without comparing"
LARGEST = 8192  # px a side, and images a batch: metadata beyond it is damaged, and would only fill the memory
NCNN_SECONDS = 120  # for one image of zeros


def name_of_format(written: object) -> str:
    """Return Ultralytics' name for a format, from that or from one of the aliases that Ultralytics takes.

    Raises:
        InputError: If there is none.
    """
    name = str(written).lower()
    aliases = {"tensorrt": "engine", "trt": "engine", "mlpackage": "coreml", "tflite": "litert"}
    if aliases.get(name) in export_formats()["Argument"]:  # before 8.4.83 there is no litert
        name = aliases[name]
    if name not in export_formats()["Argument"][1:]:  # the first is PyTorch itself
        known = (*export_formats()["Argument"][1:], *aliases)
        raise InputError(
            f"format={written} is none of Ultralytics'{did_you_mean(name, known) or ', such as format=onnx'}"
        )
    return name


def check_runtime(name: str, exporting: bool = True, quantizing: bool = False) -> None:
    """Find out whether a format can be exported and run on this machine.

    Args:
        name: Ultralytics' name of the format.
        exporting: Whether what the export needs is needed too.
        quantizing: Whether it is an export to int8.

    Raises:
        ExportError: If not; the message says what is missing.
    """
    if name not in RUNTIMES:
        raise ExportError(f"format={name} {UNCHECKED}, or take one of {', '.join(RUNTIMES)}")
    if name == "coreml" and platform.system() != "Darwin":
        raise ExportError("Core ML runs on macOS alone, so format=coreml " + UNCHECKED)
    if name == "engine" and not torch.cuda.is_available():
        raise ExportError("TensorRT needs an NVIDIA GPU, so format=engine " + UNCHECKED)
    runtime = RUNTIMES[name]
    needed = [runtime.runs, *(runtime.exports if exporting else ()), *(runtime.quantizes if quantizing else ())]
    missing = [distribution for module, distribution in needed if find_spec(module) is None]
    if missing:
        what = f"'ela-yolo[{runtime.extra}]'" if runtime.extra else " ".join(missing)
        kind = name + " in int8" * quantizing
        doing = f"exporting to {kind} and comparing the file" if exporting else f"running {kind}"
        raise ExportError(f"{doing} needs {', '.join(missing)}: pip install {what}")


class ExportedFile:
    """An exported file, or the folder that some formats are, open in its runtime.

    Attributes:
        path: Where it is.
        format: Ultralytics' name of its format.
        metadata: What Ultralytics' exporter wrote into it.
        task: The task of the model.
        names: Its classes.
        stride: Its largest stride.
        blocks: Its ELA blocks, as :func:`describe_blocks` gives them; None if it does not tell.
        nms: What NMS within the file was told, as far as it tells.
        tolerance: What passes for the same in its precision.
        kind: What its first output is: ``raw``, or final detections, by ``end2end`` or by ``nms``.
        inputs: The batches and sizes to compare at; where the axes are free three others too.
        versions: Of the packages that run it.

    Args:
        path: The file or folder.

    Raises:
        ExportError: If it is not there, cannot be run, or was not written by Ultralytics' exporter.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ExportError(f"{path} does not exist; export it first")
        self.path = path
        self.format = _format_of(path)
        check_runtime(self.format, exporting=False)
        if self.format == "ncnn":
            _try_ncnn(path)
        self.backend, self.in_float32 = self._open()
        self.metadata: dict[str, Any] = self.backend.metadata
        if not {"task", "imgsz", "names", "stride"} <= self.metadata.keys():
            made = f"ela-yolo export model=... format={self.format}"
            raise ExportError(f"{path} lacks the metadata of Ultralytics; make it with: {made}")
        try:
            self._read_metadata()
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ExportError(f"{path} has damaged metadata ({one_line(error)}); export it again") from error
        self.versions = _versions(self.format)

    def _open(self) -> tuple[Any, Callable[[Any], Any] | None]:
        device = torch.device("cuda:0" if self.format == "engine" else "cpu")
        try:
            backend = AutoBackend(str(self.path), device=device)
            in_float32 = _openvino_in_float32(self.path) if self.format == "openvino" else None
        except Exception as error:  # every runtime has its own types
            runtime = RUNTIMES[self.format].runs[1]
            raise ExportError(
                f"{self.path} cannot be run by {runtime}, so export it again ({one_line(error)})"
            ) from error
        return backend, in_float32

    def _read_metadata(self) -> None:
        """Take what is needed of the metadata, which may come from anywhere, as plain values."""
        args = dict(self.metadata.get("args") or {})
        self.task = str(self.metadata["task"])
        self.tolerance = _TOLERANCES.get(bits_of(args), INT8)  # a precision that is not known is judged as the coarsest
        ended = self.metadata.get("end2end")  # of both kinds, as Ultralytics reads it
        self.kind = "nms" if args.get("nms") else "end2end" if ended else "raw"
        self.names = {int(key): str(name) for key, name in dict(self.metadata["names"]).items()}
        self.stride = int(self.metadata["stride"])
        entry = json.loads(self.metadata.get(METADATA_KEY) or "{}")
        self.blocks = entry.get("blocks")
        self.nms = {str(key): value for key, value in dict(entry.get("nms") or {}).items()}
        height, width = map(int, self.metadata["imgsz"])
        batch = int(self.metadata.get("batch", 1))
        if not all(0 < each <= LARGEST for each in (height, width, batch, self.stride)):
            raise ValueError(f"a batch of {batch} images of {height}x{width} px, stride {self.stride}")
        self.inputs: list[Size] = [(batch, (height, width))]
        if args.get("dynamic"):
            # No larger batch than the one that was exported, where it is the limit.
            two, three = (1, 1) if self.format in ("engine", "coreml") or self.kind == "nms" else (2, 3)
            step = self.stride
            sizes = (height + 2 * step, width + step), (height, width + 2 * step), (height + step, width)
            self.inputs += [*zip((two, three, 1), sizes, strict=True)]

    def run(self, batch: Tensor) -> list[Tensor]:
        """Return the outputs for a batch of images, (batch, 3, H, W), in float32.

        Raises:
            ExportError: If the runtime fails.
        """
        try:
            outputs = self.in_float32(batch.numpy()) if self.in_float32 else self.backend(batch)
        except Exception as error:  # as above
            raise ExportError(f"{self.path} cannot be run, so export it again ({one_line(error)})") from error
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [torch.as_tensor(output).detach().cpu().float() for output in outputs]


def _format_of(path: Path) -> str:
    table = export_formats()
    formats = zip(table["Argument"][1:], table["Suffix"][1:], strict=True)
    fitting = [(len(suffix), name) for name, suffix in formats if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(
            f"{path} has no ending by which Ultralytics knows a format, such as .onnx or _openvino_model; name it so"
        )
    return str(max(fitting)[1])


def _versions(name: str) -> dict[str, str]:
    package = RUNTIMES[name].runs[1]
    try:
        return {package: version(package)}
    except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
        return {}


# Constant: what it runs on comes by its arguments, and nothing of a file ever becomes code.
_TRY_NCNN = """
import sys
import ncnn, numpy
param, weights, height, width = sys.argv[1:]
net = ncnn.Net()
if net.load_param(param) or net.load_model(weights):
    sys.exit("ncnn cannot load it")
with net.create_extractor() as extractor:
    extractor.input(net.input_names()[0], ncnn.Mat(numpy.zeros((3, int(height), int(width)), numpy.float32)))
    if any(extractor.extract(name)[0] for name in net.output_names()):
        sys.exit("ncnn cannot run it")
"""


def _try_ncnn(path: Path) -> None:
    """Run an NCNN model in a process of its own first, for a damaged one ends the process that runs it.

    The process starts in an empty folder: modules that lie in the model's folder, or here, are not imported.
    """
    try:
        height, width = map(int, load_yaml(path / "metadata.yaml")["imgsz"])
        if not 0 < height <= LARGEST or not 0 < width <= LARGEST:
            raise ValueError(f"{height}x{width} px")
    except Exception as error:  # missing, no YAML, or no sizes
        made = "make it with: ela-yolo export format=ncnn"
        raise ExportError(f"{path} lacks the metadata of Ultralytics, or has damaged metadata; {made}") from error
    files = [str(path.resolve() / f"model.ncnn.{ending}") for ending in ("param", "bin")]
    try:
        done = run_isolated(_TRY_NCNN, *files, str(height), str(width), seconds=NCNN_SECONDS)
    except subprocess.TimeoutExpired:
        raise ExportError(f"{path} is still running after {NCNN_SECONDS} s of one image; export it again") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it is damaged"])[-1]
        raise ExportError(f"{path} cannot be run by ncnn, so export it again ({reason})")


def _openvino_in_float32(path: Path) -> Callable[[Any], list[Any]]:
    """Return what runs an OpenVINO file as it is; by default the CPU's own lower precision is taken."""
    import openvino

    file = path if path.is_file() else next(path.glob("*.xml"))
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: list(compiled(images).values())
