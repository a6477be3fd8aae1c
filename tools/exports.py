"""Exports a model to every format that runs here, compares each file with its model, times it, and prints a table.

::

    python tools/exports.py                                        # make exports
    python tools/exports.py model=best.pt data=my.yaml imgsz=320   # of your own detector
    python tools/exports.py "rows=onnx;ncnn, half=True"            # some rows

Without ``model`` one is trained first. Each runtime is put into .venv/runtimes by pip, alone, so that none
changes what the others or Ultralytics need, and each row has a process of its own. Latency is that of the file beside
the export of the same model without ELA, at 640 px, alternating: median of the ratios.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from ela_yolo.cost.timing import alternate, processor, ratio_of
from ela_yolo.util.tables import markdown_row, markdown_table

FOLDER = Path(sys.prefix) / "runtimes"
# What lies beside the pinned environment, without the packages that it has: each was found to work with it.
OPENVINO = "openvino==2026.4.1 openvino-telemetry==2025.2.0"
PACKAGES = {
    "openvino": OPENVINO,
    "nncf": f"{OPENVINO} nncf==3.4.0 ninja==1.13.2 pydot==4.0.1 rich==15.0.0 safetensors==0.8.0 scikit-learn==1.9.1 "
    "scipy==1.17.1 tabulate==0.10.0 joblib==1.6.0 threadpoolctl==3.8.0 markdown-it-py==4.3.0 mdurl==0.1.2 "
    "narwhals==2.29.0",
    "ncnn": "ncnn==1.0.20261020 pnnx==20260526 portalocker==4.4.2 tqdm==4.70.1",
    "mnn": "MNN==3.6.1",
    "litert": "litert-torch==0.10.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 litert-converter==0.5.0 "
    "absl-py==2.5.1 backports.strenum==1.2.8 immutabledict==4.3.1 jax==0.10.2 jaxlib==0.10.2 jaxtyping==0.3.11 "
    "markdown-it-py==4.3.0 mdurl==0.1.2 multipledispatch==1.0.0 opt_einsum==3.4.0 rich==15.0.0 safetensors==0.8.0 "
    "scipy==1.17.1 tabulate==0.10.0 torchao==0.18.0 tqdm==4.70.1 wadler-lindig==0.1.8",
    "executorch": "executorch==1.5.1 torchao==0.18.0 tabulate==0.10.0 ruamel.yaml==0.19.1",
    "coreml": "coremltools==9.0 tqdm==4.70.1 cattrs==26.2.1 pyaml==26.7.0",
}
INT8: dict[str, Any] = {"int8": True, "data": None}
ROWS: dict[str, tuple[str | None, dict[str, Any]]] = {  # row -> runtime, export keys
    "onnx": (None, {}),
    "onnx, opset 12": (None, {"opset": 12}),
    "onnx, opset 20": (None, {"opset": 20}),
    "onnx, simplify=False": (None, {"simplify": False}),
    "onnx, dynamic=True": (None, {"dynamic": True}),
    "onnx, nms=True": (None, {"nms": True}),
    "onnx, half=True": (None, {"half": True}),
    "onnx, int8=True": (None, INT8),
    "torchscript": (None, {}),
    "openvino": ("openvino", {}),
    "openvino, half=True": ("openvino", {"half": True}),
    "openvino, int8=True": ("nncf", INT8),
    "ncnn": ("ncnn", {}),
    "ncnn, half=True": ("ncnn", {"half": True}),
    "mnn": ("mnn", {}),
    "mnn, half=True": ("mnn", {"half": True}),
    "mnn, int8=True": ("mnn", {"int8": True}),
    "litert": ("litert", {}),
    "litert, int8=True": ("litert", INT8),
    "executorch": ("executorch", {}),
    "coreml": ("coreml", {}),
}
NOT_RUN = {
    "engine (TensorRT)": "needs an NVIDIA GPU; there `ela-yolo export format=engine` does the same",
    "paddle, saved_model, pb, edgetpu": "not tried",
    "rknn, imx, axelera, hailo, qnn, ...": "run on their own devices",
}
ROUNDS, SIDE = 40, 640
REST = 0.02  # s
LIMIT = 2 * 3600  # s, of each process that is started here


def main(arguments: list[str]) -> int:
    """Print the table, and return the exit status: 1 if a row failed. A row says whether its file matches."""
    given = dict(argument.split("=", 1) for argument in arguments)
    data = given.get("data", "scenes.yaml")
    weights = Path(given["model"]).resolve() if "model" in given else train()
    chosen = given["rows"].split(";") if "rows" in given else list(ROWS)
    errors, maps, latency = "largest error: boxes, scores", "mAP50-95: model, file", "latency, beside plain"
    print(markdown_table(["format", "size", errors, maps, latency, ""]))
    failed = False
    versions: dict[str, str] = {}
    for row in chosen:
        runtime, keys = ROWS[row]
        job = {"row": row, "weights": str(weights), "data": data, "imgsz": int(given.get("imgsz", 160)), "keys": keys}
        result = in_own_process(job, install(runtime) if runtime else None)
        failed |= "failed" in result
        versions |= result.get("versions", {})
        print(markdown_row([row, *result["cells"]]), flush=True)
    for row, reason in NOT_RUN.items():
        print(markdown_row([row, "", "", "", "", f"not run: {reason}"]))
    known = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    print(f"\n{known}, Python {platform.python_version()}, {os.cpu_count()} CPU cores ({processor()})")
    return int(failed)


def train() -> Path:
    """Return the weights of a detector of scenes, which is trained if it is not there."""
    from ela_yolo.cli.quickstart import SCENES

    best = FOLDER / "scenes/weights/best.pt"
    if not best.is_file():
        keys = {**SCENES, "model": "yolov8n-ela.yaml", "project": FOLDER, "name": "scenes", "exist_ok": True}
        words = [f"{key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "ela_yolo", "train", *words]
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=LIMIT)
    return best


def install(runtime: str) -> Path:
    """Install the packages of one runtime into a folder of their own, if they are not there yet."""
    folder = FOLDER / runtime
    if not folder.is_dir():
        part = folder.with_name(f"{runtime}-unfinished")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(part)]
        subprocess.run([*command, *PACKAGES[runtime].split()], check=True, stdout=sys.stderr, timeout=LIMIT)
        part.rename(folder)
    return folder


def in_own_process(job: dict[str, Any], packages: Path | None) -> dict[str, Any]:
    """Measure one row in a new interpreter. If a runtime crashes, the row says so."""
    env = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "PIP_NO_INDEX": "1"}
    if packages:
        env["PYTHONPATH"] = str(packages)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, __file__, "one", json.dumps({**job, "folder": folder, "answer": str(answer)})]
        keys: dict[str, Any] = {"env": env, "cwd": folder, "capture_output": True, "text": True, "errors": "replace"}
        try:
            done = subprocess.run(command, **keys, timeout=LIMIT)
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]
        except subprocess.TimeoutExpired:
            reason = f"it did not end within {LIMIT} s"
        if answer.is_file():
            return dict(json.loads(answer.read_text(encoding="utf-8")))
    return {"failed": True, "cells": ["", "", "", "", f"failed: {reason}"]}


def one(job: dict[str, Any]) -> dict[str, Any]:
    """Export, compare and time one row."""
    import numpy
    import torch
    from ultralytics import YOLO

    import ela_yolo
    from ela_yolo.host.calls import open_backend
    from ela_yolo.parity.export import export_and_compare, export_file

    name = job["row"].partition(",")[0]
    folder = Path(job["folder"])
    keys = {**job["keys"], "format": name}
    if "data" in keys:
        keys["data"] = job["data"]
    weights = Path(shutil.copy(job["weights"], folder / "best.pt"))
    if name == "coreml":
        file = export_file(YOLO(weights), {**keys, "imgsz": job["imgsz"]})
        return {"cells": [size(file), "", "", "", "converted; Core ML runs on macOS alone"]}

    _, report = export_and_compare(YOLO(weights), {**keys, "data": job["data"], "imgsz": job["imgsz"]})
    print(report, file=sys.stderr)
    errors = {part.name: max(p.max_error for p in report.outputs if p.name == part.name) for part in report.outputs}
    assert report.scores is not None  # data= was given
    _, of_model, of_file = report.scores

    ela_yolo.remove(weights, save=folder / "plain.pt")
    timed = []
    for each in (folder / "plain.pt", weights):
        timed.append(export_file(YOLO(each), {**keys, "imgsz": SIDE}))
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seconds = alternate({file.name: partial(open_backend(file), image) for file in timed}, ROUNDS, REST)
    plain, ela = seconds.values()
    ratio, low, high = ratio_of(plain, ela)
    latency = f"{1000 * numpy.median(ela):.1f} ms, {ratio:.3f} ({low:.3f} to {high:.3f})"
    if "nms" in keys:  # how long NMS takes depends on what is found
        latency = ""
    verdict = "matches" if report.passed else f"does NOT match: {report.failures[0]}"
    return {
        "versions": {**report.runtime, "numpy": numpy.__version__},
        "cells": [
            size(timed[1]),
            f"{errors['boxes']:.2g} px, {errors['scores']:.2g}",
            f"{of_model:.4f}, {of_file:.4f}",
            latency,
            f"{verdict} ({report.tolerance.precision})",
        ],
    }


def size(path: Path) -> str:
    """Return the size of a file or a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        job = json.loads(sys.argv[2])
        Path(job["answer"]).write_text(json.dumps(one(job)), encoding="utf-8")
        sys.exit()
    sys.exit(main(sys.argv[1:]))
