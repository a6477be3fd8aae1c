"""Compares the outputs of the layers in order, which shows where a file starts to differ from its model.

The operators of ONNX and OpenVINO files are named after the layers that they came from. The values that one layer gives
to others become outputs of a copy of the graph, which then runs once. A runtime cannot fuse operators across such an
output, so a difference that comes from a fusion across layers may not show here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ela_yolo.errors import ExportError
from ela_yolo.host.blocks import describe, is_block
from ela_yolo.parity.report import LayerParity
from ela_yolo.parity.runtimes import ExportedFile
from ela_yolo.util.text import one_line

_SHARED = re.compile(r"\.act/")
_LAYER = re.compile(r"(?:^|[./])model\.(\d+)(?=[./])")  # "/model.3/Mul", "__module.model.3/aten::mul/Multiply"


def compare_layers(net: Any, file: ExportedFile, images: Tensor) -> tuple[LayerParity, ...]:
    """Return the errors of the layers' outputs, in order, for the layers that the file's graph shows.

    Layers that give one feature map are compared, such as stages and blocks; the head is not.

    Args:
        net: The model in the form that was exported, see :func:`as_exported`.
        file: An ONNX or OpenVINO file.
        images: A batch, ``(B, channels, H, W)``.

    Raises:
        ExportError: If the file has another format, cannot be run, or does not name its layers.
    """
    readers = {"onnx": _run_onnx, "openvino": _run_openvino}
    if file.format not in readers:
        raise ExportError(f"layers=True needs an ONNX or OpenVINO file, and {file.path} is {file.format}; leave it out")
    try:
        given = readers[file.format](file.path, images)
    except Exception as error:  # of several types
        raise ExportError(
            f"{file.path}: its layers cannot be run ({one_line(error)}); leave out layers=True"
        ) from error
    wanted = _run_model(net, images)
    found = []
    for number, output in wanted.items():
        fitting = [each for each in given.get(number, []) if each.shape == output.shape]
        if len(fitting) == 1:
            found.append(_compare(number, net.model[number], output, fitting[0], file.tolerance.layer))
    if not found:
        raise ExportError(f"{file.path} does not name its layers; export it again, or leave out layers=True")
    return tuple(found)


def _compare(number: int, layer: Any, wanted: Tensor, given: Tensor, tolerance: float) -> LayerParity:
    error = (wanted - given).abs().max() / wanted.abs().max().clamp(min=1e-12)
    first = layer[0] if isinstance(layer, torch.nn.Sequential) and len(layer) else layer
    name = describe(first) if is_block(first) else type(first).__name__
    return LayerParity(number, name, tuple(wanted.shape), error.item(), tolerance)


def _run_model(net: Any, images: Tensor) -> dict[int, Tensor]:
    outputs: dict[int, Tensor] = {}

    def keep(layer: Any, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs[layer.i] = output.float().clone()

    handles = [layer.register_forward_hook(keep) for layer in net.model[:-1]]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


class _Operator(NamedTuple):
    """An operator of a graph: its name, and the names of its inputs and outputs."""

    name: str
    reads: Sequence[str]
    makes: Sequence[str]


def _run_onnx(path: Path, images: Tensor) -> dict[int, list[Tensor]]:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    graph = model.graph
    there = {output.name for output in graph.output}
    operators = [_Operator(node.name, node.input, node.output) for node in graph.node]
    handed_on = {name: layer for name, layer in _handed_on(operators).items() if name not in there}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in handed_on)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    given = images.half() if "float16" in entry.type else images
    return _by_layer(handed_on.values(), session.run([*handed_on], {entry.name: given.numpy()}))


def _run_openvino(path: Path, images: Tensor) -> dict[int, list[Tensor]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path if path.is_file() else next(path.glob("*.xml")))
    nodes = {op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_type_name() != "Result"}
    operators = [
        _Operator(name, [each.get_source_output().get_node().get_friendly_name() for each in op.inputs()], [name])
        for name, op in nodes.items()
    ]
    handed_on = {name: layer for name, layer in _handed_on(operators).items() if nodes[name].get_output_size() == 1}
    first = len(model.outputs)
    model.add_outputs([nodes[name].output(0) for name in handed_on])
    results = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images.numpy())
    return _by_layer(handed_on.values(), [results[first + place] for place in range(len(handed_on))])


def _handed_on(operators: Iterable[_Operator]) -> dict[str, int]:
    """Return the values that one layer makes and another layer reads: name -> the layer that makes it.

    All convolutions share one activation, and OpenVINO names each use of it after the last layer that has it. So an
    activation counts to the layer that it reads, and so does an operator without a name.
    """
    made: dict[str, int] = {}
    handed_on: dict[str, int] = {}
    for operator in operators:
        names = (operator.name, *operator.makes)
        own = [int(found[1]) for name in names if (found := _LAYER.search(name)) and not _SHARED.search(name)]
        read = [made[name] for name in operator.reads if name in made]
        layer = own[0] if own else max(read, default=None)
        for name in operator.reads:
            if name in made and made[name] != layer:
                handed_on[name] = made[name]
        if layer is not None:
            made.update(dict.fromkeys(operator.makes, layer))
    return handed_on


def _by_layer(layers: Iterable[int], outputs: Iterable[Any]) -> dict[int, list[Tensor]]:
    by_layer: dict[int, list[Tensor]] = {}
    for layer, output in zip(layers, outputs, strict=True):
        by_layer.setdefault(layer, []).append(torch.as_tensor(output).float())
    return by_layer
