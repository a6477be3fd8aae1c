"""Prepares an export of Ultralytics: the form of the ELA blocks that suits the file, and an entry of metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from ela_yolo._version import __version__
from ela_yolo.ela import NORMS
from ela_yolo.host.model_blocks import ela_blocks
from ela_yolo.host.older_releases import bits_of

METADATA_KEY = "ela"
NMS_KEYS = ("conf", "iou", "agnostic_nms", "max_det")  # the fields of NmsSettings


def prepare_export(exporter: Any) -> None:
    """Prepare the exporter's own copy of a model with ELA; Ultralytics calls this when an export starts.

    A file of any format then has a metadata entry ``ela``. It is JSON with the version of ela-yolo, the layer and the
    settings of each block, and the settings of the NMS in the file.

    A file with one image size gets the form of the block that its runtime runs fastest on a CPU: ONNX in float32 one,
    OpenVINO, MNN and ExecuTorch another.

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
    for block in ela_blocks(model).values():
        block.graph_form = _graph_form(args, exporter.device.type) if is_unmodified(block.conv, block.gn) else None


def _graph_form(args: Any, device: str) -> str | None:
    """Return the form of the blocks in a file; None for the formula as it is written."""
    if args.dynamic:
        return None
    if args.format == "onnx":
        return "blocked" if bits_of(vars(args)) == 32 and device == "cpu" else None
    return "pooled" if args.format in ("openvino", "mnn", "executorch") else None


def describe_blocks(model: nn.Module) -> list[dict[str, Any]]:
    """Return the layer and the settings of each ELA block, in order. A layer is ``"3"``, with repeats ``"3.0"``."""
    return [{"layer": layer, **asdict(block.settings)} for layer, block in ela_blocks(model).items()]


def is_unmodified(conv: nn.Module, gn: nn.Module) -> bool:
    """Return whether these layers are of ELA's own classes and have no hooks, so they need not be called as modules.

    Parametrizations and quantizers give a layer another class, and pruning gives it a hook.
    """
    hooks = (*conv._forward_pre_hooks, *conv._forward_hooks, *gn._forward_pre_hooks, *gn._forward_hooks)
    return type(conv) is nn.Conv1d and type(gn) in NORMS and not hooks
