"""The packages that export formats need."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.calls import export_suffixes
from ela_yolo.util.installer import installer
from ela_yolo.util.text import did_you_mean

RUNTIMES: Mapping[str, tuple[str, ...]] = {  # format -> distributions: what runs it, then what else the export needs
    "torchscript": ("torch",),
    "onnx": ("onnxruntime", "onnx", "onnxslim"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "mnn": ("MNN", "onnx", "onnxslim"),
    "litert": ("ai-edge-litert", "litert-torch"),
    "executorch": ("executorch",),
}
UNCHECKED = "cannot be compared here; add verify=False (in Python, call model.export) to export without comparing"
LARGEST = 8192  # px a side, and images a batch: metadata beyond it is damaged, and would only fill the memory


def name_of_format(written: object) -> str:
    """Return Ultralytics' name for a format, from that or from one of the aliases that Ultralytics takes."""
    name = str(written).lower()
    formats = export_suffixes()
    aliases = {"tensorrt": "engine", "trt": "engine", "mlpackage": "coreml", "tflite": "litert"}
    if aliases.get(name) in formats:  # before 8.4.83 there is no litert
        name = aliases[name]
    if name not in formats:
        near = did_you_mean(name, (*formats, *aliases)) or ", such as format=onnx"
        raise InputError(f"format={written} is not a format of Ultralytics{near}")
    return name


def format_of(path: Path) -> str:
    """Return Ultralytics' name for the format of an exported file, from the ending of its name."""
    fitting = [(len(suffix), name) for name, suffix in export_suffixes().items() if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(
            f"{path} does not end like an exported file, such as .onnx or _openvino_model; "
            "name an exported file, and keep the name that Ultralytics gave it"
        )
    return max(fitting)[1]


def check_runtime(name: str, exporting: bool = True) -> None:
    """Check that a format can be exported and run on this machine."""
    if name not in RUNTIMES:
        raise ExportError(f"format={name} {UNCHECKED}, or take one of {', '.join(RUNTIMES)}")
    needed = RUNTIMES[name] if exporting else RUNTIMES[name][:1]
    missing = [distribution for distribution in needed if find_spec(distribution.replace("-", "_")) is None]
    if missing:
        doing = f"exporting to {name} and comparing the file" if exporting else f"running {name}"
        raise ExportError(f"{doing} needs {', '.join(missing)}: {installer('install', *missing)}")


def runtime_version(name: str) -> dict[str, str]:
    """Return the version of the package that runs a format, by its name; {} if pip does not know it."""
    package = RUNTIMES[name][0]
    try:
        return {package: version(package)}
    except PackageNotFoundError:  # another build of it, such as onnxruntime-gpu
        return {}
