"""The packages that export formats need, and the trial of an NCNN file in a separate process."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.calls import export_suffixes
from ela_yolo.host.versions import load_yaml
from ela_yolo.util.fresh_interpreter import run_isolated
from ela_yolo.util.text import did_you_mean

RUNTIMES: Mapping[str, tuple[str, ...]] = {  # format -> distributions: what runs it, then what else the export needs
    "torchscript": ("torch",),
    "onnx": ("onnxruntime", "onnx", "onnxslim"),
    "openvino": ("openvino",),
    "engine": ("tensorrt", "onnx", "onnxslim"),
    "ncnn": ("ncnn", "pnnx"),
    "mnn": ("MNN", "onnx", "onnxslim"),
    "litert": ("ai-edge-litert", "litert-torch"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}
UNCHECKED = "cannot be compared here; add verify=False (in Python, call model.export) to export without comparing"
LARGEST = 8192  # px a side, and images a batch: metadata beyond it is damaged, and would only fill the memory
NCNN_SECONDS = 120  # for one image of zeros


def name_of_format(written: object) -> str:
    """Return Ultralytics' name for a format, from that or from one of the aliases that Ultralytics takes.

    Raises:
        InputError: If there is none.
    """
    name = str(written).lower()
    formats = export_suffixes()
    aliases = {"tensorrt": "engine", "trt": "engine", "mlpackage": "coreml", "tflite": "litert"}
    if aliases.get(name) in formats:  # before 8.4.83 there is no litert
        name = aliases[name]
    if name not in formats:
        near = did_you_mean(name, (*formats, *aliases)) or ", such as format=onnx"
        raise InputError(f"format={written} is none of Ultralytics'{near}")
    return name


def format_of(path: Path) -> str:
    """Return Ultralytics' name for the format of an exported file, from the ending of its name.

    Raises:
        ExportError: If no format has this ending.
    """
    fitting = [(len(suffix), name) for name, suffix in export_suffixes().items() if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(
            f"{path} has no ending by which Ultralytics knows an export format, such as .onnx or _openvino_model; "
            "name an exported file, by the name that Ultralytics gave it"
        )
    return max(fitting)[1]


def check_runtime(name: str, exporting: bool = True) -> None:
    """Check that a format can be exported and run on this machine.

    Args:
        name: Ultralytics' name of the format.
        exporting: Whether the file is exported too, and not only run.

    Raises:
        ExportError: If not; the message names the missing packages.
    """
    if name not in RUNTIMES:
        raise ExportError(f"format={name} {UNCHECKED}, or take one of {', '.join(RUNTIMES)}")
    if name == "coreml" and platform.system() != "Darwin":
        raise ExportError("Core ML runs only on macOS, so format=coreml " + UNCHECKED)
    if name == "engine" and not torch.cuda.is_available():
        raise ExportError("TensorRT needs an NVIDIA GPU, so format=engine " + UNCHECKED)
    needed = RUNTIMES[name] if exporting else RUNTIMES[name][:1]
    missing = [distribution for distribution in needed if find_spec(distribution.replace("-", "_")) is None]
    if missing:
        what = "'ela-yolo[export]'" if name == "onnx" else " ".join(missing)
        doing = f"exporting to {name} and comparing the file" if exporting else f"running {name}"
        raise ExportError(f"{doing} needs {', '.join(missing)}: pip install {what}")


def runtime_version(name: str) -> dict[str, str]:
    """Return the version of the package that runs a format, by its name; {} if pip does not know it."""
    package = RUNTIMES[name][0]
    try:
        return {package: version(package)}
    except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
        return {}


# Constant: its inputs are arguments, so nothing of a file ever becomes code.
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


def try_ncnn(path: Path) -> None:
    """Run an NCNN model in a separate process first, because a damaged one ends the process that runs it.

    The process starts in an empty folder, so modules in the model's folder or in the current folder are not imported.

    Raises:
        ExportError: If the model cannot be run, or its metadata is damaged.
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
