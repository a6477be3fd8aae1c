"""Measures how much mAP lower precision costs, and whether ELA should stay in float32.

``python tools/precision_study.py model=best.pt data=bccd.yaml imgsz=320`` exports a trained model to float16 and int8,
once as Ultralytics does it and once with the nodes of ELA kept in float32, and validates each file. The rows of
OpenVINO need its packages, which ``make exports`` installs: ``PYTHONPATH=.venv/runtimes/nncf``.
"""

import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

os.environ["YOLO_VERBOSE"] = "false"

import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from ultralytics import YOLO

from ela_yolo.host.lookup import data_images
from ela_yolo.parity.export import export_file
from ela_yolo.parity.images import Images, network_input
from ela_yolo.util.tables import markdown_row, markdown_table

WEIGHTED = {"Conv", "Gemm", "MatMul"}  # what Ultralytics quantises in ONNX


class Inputs:
    """The images of a data set as the network gets them; each is read from disk when it is needed."""

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self.pictures, self.side = Images.of_files(files), side

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Any]:
        for picture in self.pictures.values():
            yield network_input(picture, (self.side, self.side)).numpy()


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Gives the images of a data set, one by one."""

    def __init__(self, images: Inputs) -> None:
        self.images, self.rest = images, iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image for the graph's input."""
        image = next(self.rest, None)
        return None if image is None else {"images": image}

    def rewind(self) -> None:
        """Start again."""
        self.rest = iter(self.images)


def ela_nodes(file: Path) -> list[str]:
    """Return the names of the nodes of ELA."""
    graph = onnx.load(file)
    told = json.loads({entry.key: entry.value for entry in graph.metadata_props}["ela"])
    layers = tuple(f"/model.{block['layer']}/" for block in told["blocks"])
    return [node.name for node in graph.graph.node if node.name.startswith(layers)]


def onnx_files(weights: Path, images: Inputs, side: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name -> file of every ONNX variant."""
    plain = export_file(YOLO(weights), {"format": "onnx", "imgsz": side, "dynamic": True})
    plain = Path(shutil.move(plain, folder / "plain.onnx"))
    yield "onnx, float32", plain
    spared = ela_nodes(plain)
    blocked: list[str]
    for name, blocked in (("", []), (", ELA in float32", spared)):
        target = folder / f"half{len(blocked)}.onnx"
        onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True, node_block_list=blocked), target)
        yield f"onnx, float16{name}", target
    others = [node.name for node in onnx.load(plain).graph.node if node.op_type not in WEIGHTED]
    for name, kept in (("", others), (", ELA in float32", others + spared)):
        target = folder / f"int8{len(kept)}.onnx"
        quantize_static(str(plain), str(target), Calibration(images), nodes_to_exclude=kept)
        yield f"onnx, int8{name}", target


def openvino_files(weights: Path, images: Inputs, side: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name -> folder of every OpenVINO variant."""
    import nncf
    import openvino

    plain = export_file(YOLO(weights), {"format": "openvino", "imgsz": side})
    yield "openvino, float32", plain
    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    network: Any = YOLO(weights).model
    layers = network.model
    blocks = [layer for layer, module in enumerate(layers) if type(module).__name__ == "ELA"]
    spared: list[int]
    for name, spared in (("", []), (", ELA in float32", blocks)):
        model = core.read_model(next(Path(plain).glob("*.xml")))
        # As Ultralytics does, no sigmoid and nothing of the head.
        starts = tuple(f"__module.model.{layer}{end}" for layer in (*spared, len(layers) - 1) for end in "/.")
        operators = {operator.get_friendly_name(): operator.get_type_name() for operator in model.get_ops()}
        kept = [each for each, kind in operators.items() if kind == "Sigmoid" or each.startswith(starts)]
        quantised = nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=kept),
        )
        target = folder / f"int8{len(kept)}_openvino_model"
        shutil.copytree(plain, target)
        openvino.save_model(quantised, next(target.glob("*.xml")))
        yield f"openvino, int8{name}", target


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    given = dict(argument.split("=", 1) for argument in arguments)
    side, data = int(given["imgsz"]), given["data"]
    images = Inputs(data_images(data, "train", "detect"), side)
    print(markdown_table(["file", "mAP50-95", "mAP50"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = Path(shutil.copy(given["model"], folder / "best.pt"))
        variants = [onnx_files, *([openvino_files] if find_spec("nncf") else [])]
        files = itertools.chain.from_iterable(make(weights, images, side, folder) for make in variants)
        for variant, file in itertools.chain([("model", weights)], files):
            keys: dict[str, Any] = {
                "imgsz": side,
                "batch": 1,
                "rect": False,
                "plots": False,
                "verbose": False,
                "workers": 0,
            }
            result: Any = YOLO(str(file), task="detect").val(data=data, project=folder, device="cpu", **keys)
            print(markdown_row([variant, f"{result.box.map:.4f}", f"{result.box.map50:.4f}"]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
