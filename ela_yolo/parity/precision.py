"""Reads from an exported file in which precision it computes: that of its weights, or 8 bits if it quantizes.

Metadata may be wrong: a converter of another tool that makes a file smaller keeps the metadata.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

Weights = Iterator[tuple[int, float]]  # bits of an element, number of elements
_QUANTIZES = {"QuantizeLinear", "DynamicQuantizeLinear", "FakeQuantize"}  # its weights may be stored in 32 bits


def stored_bits(path: Path, name: str, parameters: int) -> int:
    """Return the bits of most weights of a file, 32, 16 or 8; 8 if the file quantizes its maps.

    For a format whose tensors are not read here, or without a package that reads them, the size of the file decides.

    Args:
        path: The file or folder.
        name: Ultralytics' name of its format.
        parameters: The number of the model's parameters.
    """
    package, read = _READERS.get(name, ("", None))
    if read is None or find_spec(package) is None:
        files = path.rglob("*") if path.is_dir() else [path]
        bits = 8 * sum(file.stat().st_size for file in files if file.is_file()) / parameters
        return 32 if bits > 20 else 16 if bits > 11 else 8
    elements: dict[int, float] = defaultdict(float)
    for bits, count in read(path):
        elements[bits] += count
    return max(elements, key=elements.__getitem__, default=32)


def _onnx(path: Path) -> Weights:
    import onnx

    kinds = onnx.TensorProto
    bits = {kinds.FLOAT: 32, kinds.FLOAT16: 16, kinds.BFLOAT16: 16, kinds.INT8: 8, kinds.UINT8: 8}
    graph = onnx.load(str(path), load_external_data=False).graph
    if any(node.op_type in _QUANTIZES for node in graph.node):
        yield 8, math.inf
    constants = (attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute)
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type in bits:
            yield bits[tensor.data_type], math.prod(tensor.dims)


def _torchscript(path: Path) -> Weights:
    kinds = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 16, torch.int8: 8, torch.uint8: 8, torch.qint8: 8}
    for tensor in torch.jit.load(str(path), map_location="cpu").state_dict().values():  # type: ignore[no-untyped-call]
        if tensor.dtype in kinds:
            yield kinds[tensor.dtype], tensor.numel()


def _openvino(path: Path) -> Weights:
    import openvino

    file = path if path.is_file() else next(path.glob("*.xml"))
    bits = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8, "u8": 8}
    for node in openvino.Core().read_model(str(file)).get_ops():
        if node.get_type_name() in _QUANTIZES:
            yield 8, math.inf
        if node.get_type_name() == "Constant":
            kind = node.get_output_element_type(0).get_type_name()
            if kind in bits:
                yield bits[kind], math.prod(node.get_output_shape(0))


_READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "onnx": ("onnx", _onnx),
    "torchscript": ("torch", _torchscript),
    "openvino": ("openvino", _openvino),
}
