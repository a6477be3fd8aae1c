"""What Ultralytics' exporter is told about ELA: the form of the block that suits the file, and its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from ela_yolo._ela_cpu import are_as_built
from ela_yolo._version import __version__
from ela_yolo.host.model_blocks import named_blocks

METADATA_KEY = "ela"
NMS_KEYS = ("conf", "iou", "agnostic_nms", "max_det")  # the fields of NmsSettings


def prepare_export(exporter: Any) -> None:
    """Prepare the exporter's own copy of a model with ELA; Ultralytics calls this when an export starts.

    Every format then carries a metadata entry ``ela``: JSON with the plugin's version, for each block its layer and
    settings, and what NMS within the file was told. An ONNX file of one image size, in float32 and for the CPU, gets
    the form of the block that ONNX Runtime runs fastest there; ExecuTorch gets it because its XNNPACK refuses the
    plain form's Conv1d.
    """
    blocks = describe_blocks(exporter.model)
    if not blocks:
        return
    args = exporter.args
    entry: dict[str, Any] = {"version": __version__, "blocks": blocks}
    if args.nms or exporter.metadata.get("end2end"):  # which Ultralytics' own metadata leaves out
        entry["nms"] = {key: getattr(args, key) for key in NMS_KEYS}
    exporter.metadata[METADATA_KEY] = json.dumps(entry)
    onnx = args.format == "onnx" and not args.dynamic and args.quantize in (None, 32) and exporter.device.type == "cpu"
    for block in named_blocks(exporter.model).values():
        block.fixed_size = (onnx or args.format == "executorch") and are_as_built(block.conv, block.gn)


def describe_blocks(model: nn.Module) -> list[dict[str, Any]]:
    """Return the ELA blocks of a model, in order: their layer (``"3"``, of repeated ones ``"3.0"``) and settings."""
    return [{"layer": layer, **asdict(block.settings)} for layer, block in named_blocks(model).items()]
