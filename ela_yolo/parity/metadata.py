"""Prepares an export of Ultralytics: the form of the ELA blocks that suits the file, and an entry of metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from ela_yolo._ela_cpu import are_as_built
from ela_yolo._version import __version__
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.host.versions import bits_of

METADATA_KEY = "ela"
NMS_KEYS = ("conf", "iou", "agnostic_nms", "max_det")  # the fields of NmsSettings


def prepare_export(exporter: Any) -> None:
    """Prepare the exporter's own copy of a model with ELA; Ultralytics calls this when an export starts.

    A file of any format then has a metadata entry ``ela``. It is JSON with the version of ela-yolo, the layer and the
    settings of each block, and the settings of the NMS in the file.

    ONNX Runtime runs one form of the block fastest on a CPU. A file gets this form if it is ONNX in float32 with one
    image size. ExecuTorch gets it too, because its XNNPACK refuses the Conv1d of the plain form.

    Before 8.3.138, Ultralytics calls this before it has a model, so nothing is prepared: the file has the formula as it
    is written, and no entry.
    """
    model = getattr(exporter, "model", None)
    if model is None:
        return
    blocks = describe_blocks(model)
    if not blocks:
        return
    args = exporter.args
    entry: dict[str, Any] = {"version": __version__, "blocks": blocks}
    if args.nms or exporter.metadata.get("end2end"):  # Ultralytics' own metadata lacks them
        entry["nms"] = {key: getattr(args, key) for key in NMS_KEYS}
    exporter.metadata[METADATA_KEY] = json.dumps(entry)
    onnx = args.format == "onnx" and not args.dynamic and bits_of(vars(args)) == 32 and exporter.device.type == "cpu"
    for block in named_blocks(model).values():
        block.fixed_size = (onnx or args.format == "executorch") and are_as_built(block.conv, block.gn)


def describe_blocks(model: nn.Module) -> list[dict[str, Any]]:
    """Return the layer and the settings of each ELA block, in order. A layer is ``"3"``, with repeats ``"3.0"``."""
    return [{"layer": layer, **asdict(block.settings)} for layer, block in named_blocks(model).items()]
