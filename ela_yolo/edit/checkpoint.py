"""Reads checkpoints of Ultralytics, writes their model as a YAML, and gives a model the layers of another YAML."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ela_yolo.edit.rows import Row, rows_of
from ela_yolo.edit.yaml_file import whole_yaml
from ela_yolo.errors import CheckpointError
from ela_yolo.host.checkpoints import load_checkpoint

_SEED = 0  # of the weights of new blocks, so that the same insertion gives the same file


def read_checkpoint(file: Path) -> tuple[dict[str, Any], Any]:
    """Return a checkpoint and the model in it. A running average of the weights (EMA) replaces the model."""
    checkpoint = load_checkpoint(file)
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(getattr(model, "model", None), nn.Sequential) or not isinstance(getattr(model, "yaml", 0), dict):
        raise CheckpointError(
            f"{file} holds a {type(model).__name__}, not a model that was built from a YAML; "
            "name the best.pt of a finished training, or weights of Ultralytics such as yolov8n.pt"
        )
    if checkpoint.get("modelopt"):
        raise CheckpointError(
            f"{file} is quantized, and its quantizers refer to layer numbers; use the checkpoint from before that"
        )
    # The optimizer's state and the running average fit only the model before the change.
    stale = dict.fromkeys(checkpoint.keys() & {"ema", "optimizer", "updates", "scaler"})
    return {**checkpoint, **stale, "epoch": -1, "model": model}, model


def model_rows(file: Path, config: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the rows of the mapping of a checkpoint's model."""
    if not config.get("backbone") or not config.get("head"):
        raise CheckpointError(f"{file} holds a model whose YAML has no rows; edit the YAML file instead")
    return rows_of(config, lambda layer: f"{file} holds a model whose layer {layer}", CheckpointError)


def yaml_text(file: Path, config: Mapping[str, Any]) -> str:
    """Return the mapping of a model as the text of a model YAML, with a line for each row."""
    try:
        return whole_yaml(config)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{file} holds a model whose YAML cannot be written: {error}") from error


def build_anew(file: Path, model: Any, config: Mapping[str, Any]) -> Any:
    """Build a new model of the same class from the mapping of a model YAML."""
    channels = config.get("channels", config.get("ch", 3))
    try:
        return type(model)(deepcopy(dict(config)), ch=channels, verbose=False)
    except Exception as error:  # of Ultralytics or of a user's module
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} holds a model that Ultralytics cannot build here ({reason})") from error


def move_layers(file: Path, model: Any, config: Mapping[str, Any], layer_map: Mapping[int, int]) -> None:
    """Give a model the layers of another YAML. It keeps its own layers under new numbers, and gets new ones between.

    Args:
        file: The file of the model, for errors.
        model: The model. It is changed in place; the weights of the layers that it keeps are not.
        config: The other YAML as a mapping.
        layer_map: The model's layers that are kept -> their numbers in the other YAML.
    """
    if hasattr(model, "set_classes"):
        raise CheckpointError(
            f"{file} is of YOLO-World or YOLOE, and Ultralytics rebuilds these from the YAML named in it, without ELA; "
            "insert ELA into that YAML, and load the weights"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        built = build_anew(file, model, config)
    example = next(model.parameters())
    built_layers = list(built.model)
    for old, new in layer_map.items():
        if old >= len(model.model) or type(model.model[old]) is not type(built_layers[new]):
            raise CheckpointError(f"{file} holds a model that differs from its own YAML, from layer {old} on")
        layer = model.model[old]
        layer.i, layer.f = new, built_layers[new].f
        built_layers[new] = layer
    for number in set(range(len(built_layers))) - set(layer_map.values()):
        built_layers[number].to(example).train(model.training).requires_grad_(example.requires_grad)
    model.model, model.save, model.yaml = nn.Sequential(*built_layers), built.save, built.yaml
