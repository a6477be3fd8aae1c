"""Recognises checkpoints of a changed Ultralytics whose own ELA class cannot be imported here.

Such a checkpoint is loaded with stand-ins: modules that hold the pickled state in the place of the missing classes.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ela_yolo.ela import ELA
from ela_yolo.errors import CheckpointError
from ela_yolo.host.row_hints import recognise

_NO_WEIGHTS = (nn.Sequential, nn.Sigmoid, nn.AdaptiveAvgPool2d, nn.Identity)  # what may stand beside the two
_EPS = nn.GroupNorm(1, 1).eps


@dataclass(frozen=True)
class ForeignELA:
    """A checkpoint whose ELA blocks have a class that cannot be imported; ELA can replace all of them.

    Attributes:
        checkpoint: The whole checkpoint.
        model: The model in it, with stand-ins for these blocks.
        blocks: Layer number -> the convolution and the norm of each block in the layer; with repeats there are several.
        classes: The names of the missing classes, with their modules.
    """

    checkpoint: dict[str, Any]
    model: Any
    blocks: Mapping[int, tuple[tuple[nn.Conv1d, nn.GroupNorm], ...]]
    classes: tuple[str, ...]


class _StandIn(nn.Module):
    """Holds the state of an object whose class is missing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def check_classes(file: Path) -> None:
    """Check that a checkpoint holds no ELA class of a changed Ultralytics.

    A file that is missing or damaged passes: reading it raises the error.

    Raises:
        CheckpointError: If it holds one; the message names the remedy.
    """
    foreign = read_foreign(file)
    if foreign:
        raise CheckpointError(
            f"{file} was written by a changed Ultralytics with an ELA class of its own ({', '.join(foreign.classes)}), "
            f"which is not here; `ela-yolo insert model={file}` writes a copy with the ELA of ela-yolo and its weights"
        )


def read_foreign(file: Path) -> ForeignELA | None:
    """Return a checkpoint with ELA blocks whose class cannot be imported; None if it holds no such blocks.

    Raises:
        CheckpointError: If it holds some that ELA cannot replace.
    """
    from ultralytics import utils

    if getattr(utils, "SAFE_LOAD", False):  # then Ultralytics imports no class that a file names, nor is it done here
        return None
    missing = {each for each in _class_names(file) if not _is_here(*each)}
    if not missing:
        return None
    stand_ins = {each: type(each[1], (_StandIn,), {"__module__": each[0]}) for each in missing}
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=False, pickle_module=_pickle_with(stand_ins))
        model = checkpoint.get("ema") or checkpoint.get("model")
        layers = [*model.model]
    except Exception:  # a damaged file; Ultralytics reports it when it loads the file
        return None
    blocks, reasons = {}, []
    for number, layer in enumerate(layers):
        repeated = [*layer] if type(layer) is nn.Sequential else [layer]
        if not repeated or not all(isinstance(block, _StandIn) for block in repeated):
            inner = next((part for part in layer.modules() if isinstance(part, _StandIn)), None)
            reasons += [f"{_name(inner)} is a part of layer {number} {_name(layer)}"] if inner is not None else []
            continue
        try:
            blocks[number] = tuple(map(_parts, repeated))
        except ValueError as error:
            reasons.append(f"layer {number} {_name(repeated[0])} {error}")
    found = {type(part) for number in blocks for part in layers[number].modules() if isinstance(part, _StandIn)}
    meant = [recognise(name) for _, name in missing]
    if not blocks and not any(found and found.block == "ELA" for found in meant):
        return None
    others = sorted(f"{module}.{name}" for (module, name), kind in stand_ins.items() if kind not in found)
    if reasons or others:
        raise CheckpointError(
            f"{file} was written by a changed Ultralytics, and its ELA cannot become that of ela-yolo: "
            f"{reasons[0] if reasons else f'{others[0]} is missing too'}; use it where that Ultralytics is installed"
        )
    return ForeignELA(checkpoint, model, blocks, tuple(sorted(f"{kind.__module__}.{kind.__name__}" for kind in found)))


def _name(block: nn.Module) -> str:
    return type(block).__name__


def _class_names(file: Path) -> set[tuple[str, str]]:
    """Return the classes and functions that a checkpoint names, (module, name), without running its code."""
    try:
        with zipfile.ZipFile(file) as archive:
            record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = pickletools.genops(archive.read(record))
            named = [str(arg).split(" ") for operation, arg, _ in operations if operation.name == "GLOBAL"]
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError):
        return set()
    return {(module, name) for module, name in named}


def _is_here(module: str, name: str) -> bool:
    """Return whether loading a checkpoint would find a class, which is looked up in the same way."""
    try:
        found = pickle.Unpickler(io.BytesIO()).find_class(module, name)
    except Exception:  # an import runs the module's code, which may raise anything
        return False
    return found is not ELA or module == ELA.__module__  # registering puts ELA in the place of such a class


def _pickle_with(stand_ins: Mapping[tuple[str, str], type[nn.Module]]) -> Any:
    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.startswith("pathlib") and name in ("PosixPath", "WindowsPath"):
                return pathlib.Path  # paths that another operating system wrote
            return stand_ins.get((module, name)) or super().find_class(module, name)

    return type("pickle_with_stand_ins", (), {"Unpickler": Unpickler})


def _parts(block: nn.Module) -> tuple[nn.Conv1d, nn.GroupNorm]:
    """Return the convolution and the norm of a block, which must hold all of its weights.

    Raises:
        ValueError: If it holds other weights, or ELA has no such settings; the message continues the block's name.
    """
    parts = [part for part in block.modules() if part is not block]
    convolutions = [part for part in parts if type(part) is nn.Conv1d]
    norms = [part for part in parts if type(part) is nn.GroupNorm]
    more = next((p for p in parts if type(p) not in (nn.Conv1d, nn.GroupNorm, *_NO_WEIGHTS)), None)
    if more is not None:
        raise ValueError(f"holds a {_name(more)}")
    if len(convolutions) != 1 or len(norms) != 1:
        raise ValueError(f"holds {len(convolutions)} Conv1d and {len(norms)} GroupNorm, where ELA has one of each")
    if block._parameters or block._buffers:
        raise ValueError("has weights outside of its Conv1d and GroupNorm")
    (conv,), (norm,) = convolutions, norms
    kernel = conv.kernel_size[0]
    for right, problem in (
        (conv.bias is None, "has a Conv1d with a bias, which ELA's has not"),
        (conv.in_channels == conv.out_channels == norm.num_channels, "changes the number of channels"),
        (kernel % 2 == 1 and conv.padding == (kernel // 2,), f"has a Conv1d of {kernel} with padding {conv.padding}"),
        (conv.stride == conv.dilation == (1,), "has a Conv1d with a stride or dilation"),
        (conv.padding_mode == "zeros", f"pads its Conv1d by {conv.padding_mode}"),
        (norm.affine and norm.eps == _EPS, f"has a GroupNorm without weights, or with an eps other than {_EPS}"),
    ):
        if not right:
            raise ValueError(problem)
    return conv, norm
