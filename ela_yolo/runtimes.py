"""Exported files, run by the runtime of their own format; Ultralytics' AutoBackend drives it."""

from __future__ import annotations

import platform
import subprocess
import sys
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
from ultralytics.utils import YAML

from ela_yolo.errors import ExportError, UsageError, did_you_mean, plain
from ela_yolo.tolerances import FLOAT16, FLOAT32, INT8, Tolerance

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
UNPROVEN = "cannot be proven here; add verify=False to export unproven"


def name_of_format(written: object) -> str:
    """Return the host's name for a format, from that or from one of the aliases that the host takes.

    Raises:
        UsageError: If there is none.
    """
    name = str(written).lower()
    aliases = {"tensorrt": "engine", "trt": "engine", "mlpackage": "coreml", "tflite": "litert"}
    name = aliases.get(name, name)
    if name not in export_formats()["Argument"][1:]:  # the first is PyTorch itself
        known = (*export_formats()["Argument"][1:], *aliases)
        raise UsageError(
            f"format={written} is none of the host's{did_you_mean(name, known) or ', such as format=onnx'}"
        )
    return name


def check_runtime(name: str, exporting: bool = True, quantizing: bool = False) -> None:
    """Find out whether a format can be exported and run on this machine.

    Args:
        name: The host's name of the format.
        exporting: Whether what the export needs is needed too.
        quantizing: Whether it is an export to int8.

    Raises:
        ExportError: If not; the message says what is missing.
    """
    if name not in RUNTIMES:
        raise ExportError(f"format={name} {UNPROVEN}, or take one of {', '.join(RUNTIMES)}")
    if name == "coreml" and platform.system() != "Darwin":
        raise ExportError("Core ML runs on macOS alone, so format=coreml " + UNPROVEN)
    if name == "engine" and not torch.cuda.is_available():
        raise ExportError("TensorRT needs an NVIDIA GPU, so format=engine " + UNPROVEN)
    runtime = RUNTIMES[name]
    needed = [runtime.runs, *(runtime.exports if exporting else ()), *(runtime.quantizes if quantizing else ())]
    missing = [distribution for module, distribution in needed if find_spec(module) is None]
    if missing:
        what = f"'ela-yolo[{runtime.extra}]'" if runtime.extra else " ".join(missing)
        doing = f"exporting to {name}{' in int8' * quantizing} and proving the file" if exporting else f"running {name}"
        raise ExportError(f"{doing} needs {', '.join(missing)}: pip install {what}")


class ExportedFile:
    """An exported file, or the folder that some formats are, open in its runtime.

    Attributes:
        path: Where it is.
        format: The host's name of its format.
        metadata: What the host's exporter wrote into it.
        task: The task of the model.
        tolerance: What passes for the same in its precision.
        kind: What its first output is: ``raw``, or final detections, by ``end2end`` or by ``nms``.
        inputs: The batches and sizes to compare at; where the axes are free three others too.
        versions: Of the packages that run it.

    Args:
        path: The file or folder.
        otherwise: Run it the other way that people do: ONNX by OpenCV's DNN module, OpenVINO in the precision that it
            takes by default, which on some CPUs is not the file's.

    Raises:
        ExportError: If it is not there, cannot be run, or was not written by the host's exporter.
    """

    def __init__(self, path: Path, otherwise: bool = False) -> None:
        if not path.exists():
            raise ExportError(f"{path} does not exist; export it first")
        self.path = path
        self.format = _format_of(path)
        check_runtime(self.format, exporting=False)
        if self.format == "ncnn":
            _try_ncnn(path)
        device = torch.device("cuda:0" if self.format == "engine" else "cpu")
        try:
            self.backend = AutoBackend(str(path), device=device, dnn=otherwise and self.format == "onnx")
            self.in_float32 = _openvino_in_float32(path) if self.format == "openvino" and not otherwise else None
        except Exception as error:  # every runtime has its own types
            runtime = RUNTIMES[self.format].runs[1]
            raise ExportError(f"{path} cannot be run by {runtime}, so export it again ({plain(error)})") from error
        self.metadata: dict[str, Any] = self.backend.metadata
        if not {"task", "imgsz", "names", "stride"} <= self.metadata.keys():
            made = f"ela-yolo export model=... format={self.format}"
            raise ExportError(f"{path} lacks the host's metadata; make it with: {made}")
        args = self.metadata.get("args") or {}
        self.task = str(self.metadata["task"])
        self.tolerance = _tolerance(args.get("quantize"))
        ended = self.metadata.get("end2end")  # of both kinds, in the host's reading
        self.kind = "nms" if args.get("nms") else "end2end" if ended else "raw"
        self.versions = _versions(self.format)
        height, width = map(int, self.metadata["imgsz"])
        batch = int(self.metadata.get("batch", 1))
        self.inputs: list[Size] = [(batch, (height, width))]
        if args.get("dynamic"):
            # No larger batch than the one that was exported, where it is the limit.
            two, three = (1, 1) if self.format in ("engine", "coreml") or self.kind == "nms" else (2, 3)
            self.inputs += [(two, (height + 64, width + 32)), (three, (height, width + 64)), (1, (height + 32, width))]

    def run(self, batch: Tensor) -> list[Tensor]:
        """Return the outputs for a batch of images, (batch, 3, H, W), in float32.

        Raises:
            ExportError: If the runtime fails.
        """
        try:
            outputs = self.in_float32(batch.numpy()) if self.in_float32 else self.backend(batch)
        except Exception as error:  # as above
            raise ExportError(f"{self.path} cannot be run, so export it again ({plain(error)})") from error
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [torch.as_tensor(output).detach().cpu().float() for output in outputs]


def _format_of(path: Path) -> str:
    table = export_formats()
    formats = zip(table["Argument"][1:], table["Suffix"][1:], strict=True)
    fitting = [(len(suffix), name) for name, suffix in formats if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(
            f"{path} has no ending by which the host knows a format, such as .onnx or _openvino_model; name it so"
        )
    return str(max(fitting)[1])


def _tolerance(quantize: object) -> Tolerance:
    if quantize in (None, 32):
        return FLOAT32
    return FLOAT16 if quantize == 16 else INT8


def _versions(name: str) -> dict[str, str]:
    package = RUNTIMES[name].runs[1]
    try:
        return {package: version(package)}
    except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
        return {}


def _try_ncnn(path: Path) -> None:
    """Run an NCNN model in a process of its own first, for a damaged one ends the process that runs it."""
    try:
        height, width = YAML.load(path / "metadata.yaml")["imgsz"]
    except (FileNotFoundError, KeyError) as error:
        raise ExportError(f"{path} lacks the host's metadata; make it with: ela-yolo export format=ncnn") from error
    code = f"""
import ncnn, numpy
net = ncnn.Net()
assert not net.load_param("model.ncnn.param") and not net.load_model("model.ncnn.bin")
with net.create_extractor() as extractor:
    extractor.input(net.input_names()[0], ncnn.Mat(numpy.zeros((3, {height}, {width}), numpy.float32)))
    assert not any(extractor.extract(name)[0] for name in net.output_names())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it is damaged"])[-1]
        raise ExportError(f"{path} cannot be run by ncnn, so export it again ({reason})")


def openvino_precision() -> str:
    """Return the precision that OpenVINO computes float32 files in by default on this CPU, such as ``bf16``."""
    import openvino

    return str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string())


def _openvino_in_float32(path: Path) -> Callable[[Any], list[Any]]:
    """Return what runs an OpenVINO file as it is; by default the CPU's own lower precision is taken."""
    import openvino

    file = path if path.is_file() else next(path.glob("*.xml"))
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: list(compiled(images).values())
