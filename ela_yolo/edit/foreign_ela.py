"""Replaces the ELA blocks of a changed Ultralytics by ELA, with their weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from ela_yolo.edit.checkpoint import build_anew, find_model_in, move_layers, yaml_text
from ela_yolo.edit.renumbering import EditedYaml, show_diff
from ela_yolo.ela import ELA, Variant, resolve_settings
from ela_yolo.errors import CheckpointError, InsertionError
from ela_yolo.host.blocks import describe
from ela_yolo.host.foreign_classes import ForeignELA

_FORMS = ("paper", "residual")  # other ELA classes return the scaled map, or the sum of the map and the scaled map
_TOLERANCE = 1e-9  # of float64, on a map of about 1


@dataclass(frozen=True)
class Conversion:
    """A checkpoint whose blocks of another ELA class became ELA.

    Attributes:
        checkpoint: The checkpoint to save.
        layers: The layers of its model as they were before.
        edited: Its YAML after the change.
        notes: What was compared, a sentence each.
    """

    checkpoint: dict[str, Any]
    layers: list[nn.Module]
    edited: EditedYaml
    notes: tuple[str, ...]


def convert(file: Path, foreign: ForeignELA, gate: str | None) -> Conversion:
    """Replace the blocks of another ELA class by ELA, layer by layer, and their rows by rows of ELA.

    Args:
        file: The file of the checkpoint, for errors.
        foreign: The checkpoint; its model is changed in place.
        gate: The gate form that the other class computes, ``paper`` or ``residual``; None means ``paper``.

    Raises:
        InsertionError: If the gate form is neither of these.
        CheckpointError: If the model does not fit its own YAML, or the weights do not fit ELA, or the outputs of both
            classes differ.
    """
    gate = gate or _FORMS[0]
    if gate not in _FORMS:
        raise InsertionError(f"{file}: the ELA in it becomes gate={' or gate='.join(_FORMS)}, not gate={gate}")
    checkpoint, model = find_model_in(file, foreign.checkpoint)
    old = yaml_text(file, model.yaml)
    config = yaml.safe_load(old)
    rows = [*config["backbone"], *config["head"]]
    for layer, blocks in foreign.blocks.items():
        if layer >= len(rows):
            raise CheckpointError(f"{file} holds a model that is not what its own YAML says, from layer {layer} on")
        rows[layer][2:] = ["ELA", _row_args(*blocks[0], gate)]
    new = yaml_text(file, config)
    layers = list(model.model)
    move_layers(file, model, config, {layer: layer for layer in range(len(layers)) if layer not in foreign.blocks})
    for layer, blocks in foreign.blocks.items():
        _take_weights(file, layer, model.model[layer], blocks)
    try:
        build_anew(file, model, config).load_state_dict(model.state_dict(), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} holds weights that its own YAML has no place for: {reason}") from error
    edited = EditedYaml(
        text=new,
        rows=tuple(foreign.blocks),
        layer_map={layer: layer for layer in range(len(layers))},
        diff=show_diff(old, new, file.name, "with the ELA of ela-yolo"),
    )
    return Conversion(checkpoint, layers, edited, _notes(foreign, model, gate))


def _row_args(conv: nn.Conv1d, norm: nn.GroupNorm, gate: str) -> list[Any]:
    """Return the args of a row that builds such a block: the variant with these numbers, else the numbers."""
    numbers = {"kernel_size": conv.kernel_size[0], "groups": conv.groups, "num_groups": norm.num_groups}
    of = {variant: resolve_settings(conv.in_channels, variant) for variant in ("B", *get_args(Variant))}
    other = {v: {k: n for k, n in numbers.items() if getattr(settings, k) != n} for v, settings in of.items()}
    variant = next((variant for variant in other if not other[variant]), None)
    if variant is None:
        return [{**other["B"], **({} if gate == "paper" else {"gate": gate})}]
    if gate != "paper":
        return [variant, gate]
    return [] if variant == "B" else [variant]


def _take_weights(file: Path, layer: int, built: Any, blocks: tuple[tuple[nn.Conv1d, nn.GroupNorm], ...]) -> None:
    """Load the weights of each block of a layer, and compare its output with the formula."""
    ours = [built] if isinstance(built, ELA) else list(built)
    if len(ours) != len(blocks):
        raise CheckpointError(f"{file}: layer {layer} holds {len(blocks)} blocks, and its row builds {len(ours)}")
    for block, (conv, norm) in zip(ours, blocks, strict=True):
        state = {"conv.weight": conv.weight, "gn.weight": norm.weight, "gn.bias": norm.bias}
        try:
            block.load_state_dict(state, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{file}: the weights of layer {layer} do not fit its row: {reason}") from error
        x = torch.randn(2, conv.in_channels, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            difference = (deepcopy(block).cpu().double()(x) - _formula(x, conv, norm, block.gate)).abs().max()
        if not difference <= _TOLERANCE:
            raise CheckpointError(f"{file}: layer {layer} gives another output as ELA, by {difference:.1e}")


def _formula(x: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, gate: str) -> Tensor:
    """Return the output of the paper's formula, computed without the ELA module."""
    weight, scale, shift = (tensor.detach().cpu().double() for tensor in (conv.weight, norm.weight, norm.bias))
    gates = []
    for axis in (3, 2):
        mixed = F.conv1d(x.mean(axis), weight, padding=weight.shape[2] // 2, groups=conv.groups)
        gates.append(F.group_norm(mixed, norm.num_groups, scale, shift, norm.eps).sigmoid().unsqueeze(axis))
    scaled = x * gates[0] * gates[1]
    return x + scaled if gate == "residual" else scaled


def _notes(foreign: ForeignELA, model: Any, gate: str) -> tuple[str, ...]:
    first = next(iter(foreign.blocks))
    block = model.model[first]
    settings = describe(block if isinstance(block, ELA) else block[0])
    where = f"layer{'s' * (len(foreign.blocks) > 1)} {', '.join(map(str, foreign.blocks))}"
    formula = "x + x * gate_h * gate_w" if gate == "residual" else "x * gate_h * gate_w"
    other = "if it returns the scaled map alone, take gate=paper"
    if gate == "paper":
        other = "if it adds the map, x + x * ..., take gate=residual"
    metrics = foreign.checkpoint.get("train_metrics")
    measured = metrics.get("metrics/mAP50-95(B)") if isinstance(metrics, dict) else None
    value = f", {measured:.3f} mAP50-95 in its training" if isinstance(measured, float) else ""
    return (
        f"{', '.join(foreign.classes)} became ELA in place ({where}; {settings}), every weight loaded strictly",
        f"compared: each block gives {formula}, computed separately from the tensors of the other class; its own code "
        f"is not in the file and was not run: {other}",
        f"`yolo val` on the new file should measure what the old one did{value}",
    )
