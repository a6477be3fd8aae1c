"""Matches the layers of a model with those of a source of weights, and reports which weights were kept.

Ultralytics matches weights by layer number, and the rows of blocks shift these numbers. Here layers are matched by
their order with the blocks left out of the count, and only if their classes agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ela_yolo.host.blocks import class_name, is_block

_OTHER_SHAPE = "another shape in the weights"
_FILLED = "another number of channels in the weights, filled from them by Ultralytics"


@dataclass(frozen=True)
class LeftOut:
    """The pretrained tensors of one layer that were not kept.

    Attributes:
        layer: The number of the layer.
        module: Its class.
        tensors: The number of these tensors.
        reason: The reason.
    """

    layer: int
    module: str
    tensors: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tensors} of layer {self.layer} {self.module} ({self.reason})"


@dataclass(frozen=True)
class WeightTransfer:
    """The report on loading weights into a model; printed, it is one line.

    The pretrained tensors are those of all layers that are no blocks. A tensor counts as kept if it equals the source's
    tensor bit for bit.

    Attributes:
        kept: The number of pretrained tensors that were kept.
        total: The number of the model's pretrained tensors.
        new_blocks: The layers with blocks that match none of the source, so that they keep their initial weights.
        kept_blocks: The layers with blocks that got the weights of the source's block.
        dropped_blocks: The layers with blocks in the source that match none of the model, by the source's numbers.
        left_out: The pretrained tensors that were not kept, by layer.
        block: The name of the blocks: ``ELA``, or the class of another block.

    Examples:
        >>> from ultralytics import YOLO
        >>> model = YOLO("yolov8n-ela.yaml").model
        >>> transfer = model.load(YOLO("yolov8n.yaml").model, verbose=False)
        >>> print(transfer)
        ELA: 355/355 pretrained tensors kept; 4 new ELA (3, 6, 9, 12)
        >>> transfer.complete
        True
    """

    kept: int
    total: int
    new_blocks: tuple[int, ...] = ()
    kept_blocks: tuple[int, ...] = ()
    dropped_blocks: tuple[int, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    block: str = "ELA"

    @property
    def complete(self) -> bool:
        """Whether every pretrained tensor was kept.

        As in Ultralytics, a first convolution counts as kept if it was filled from one with other channels.
        """
        return all(entry.reason == _FILLED for entry in self.left_out)

    def __str__(self) -> str:
        parts = [f"{self.kept}/{self.total} pretrained tensors kept"]
        for what, layers in (
            (f"new {self.block}", self.new_blocks),
            (f"{self.block} kept", self.kept_blocks),
            (f"{self.block} of the weights not loaded", self.dropped_blocks),
        ):
            if layers:
                parts.append(f"{len(layers)} {what} ({', '.join(map(str, layers))})")
        if self.left_out:
            more = len(self.left_out) - 3
            listed = ", ".join(map(str, self.left_out[:3]))
            parts.append(f"not kept: {listed}" + f" and {more} layers more" * (more > 0))
        return "ELA: " + "; ".join(parts)


@dataclass(frozen=True)
class Matching:
    """The layers of a source that match the layers of a model.

    Attributes:
        matches: For each layer of the model the number of the source's layer that matches, or None.
        disagreement: The first layer that differs, blocks not counted; None if the architectures agree.
    """

    matches: tuple[int | None, ...]
    disagreement: str | None


class _BlockPlace(NamedTuple):
    """The place of a block, which does not depend on the other blocks of the model.

    Attributes:
        before: The number of layers before it that are no blocks.
        ordinal: Its number among the blocks that follow each other there.
        reads: The layer that it reads: the number of a layer with blocks left out of the count, the place of a block,
            or None for the image.
    """

    before: int
    ordinal: int
    reads: _BlockPlace | int | None


def match_layers(source: Sequence[nn.Module], model: Sequence[nn.Module]) -> Matching:
    """Match the layers of two models by their order, with blocks left out of the count.

    Layers match if their classes agree. Heads of one family, such as Detect and Segment, agree too. If both models have
    the same number of layers, a layer that disagrees is left out alone. If not, all layers after it are left out too,
    because nothing tells how they correspond.

    A block matches a block of the source if it follows the same layers, reads the same layer, and has the same
    settings.

    Args:
        source: The layers that the weights come from; ``.f`` of a layer is the number of the layer that it reads.
        model: The layers that get the weights, with ``.f`` too.
    """
    number_at = {place: number for number, place in enumerate(_places(source))}
    theirs, ours = ([i for i, layer in enumerate(layers) if not is_block(layer)] for layers in (source, model))
    last = len(ours) - 1
    agree = [
        _kind(source[i]) is _kind(model[j]) or (k == last == len(theirs) - 1 and _one_family(source[i], model[j]))
        for k, (i, j) in enumerate(zip(theirs, ours, strict=False))
    ]
    disagreement = None
    if not all(agree) or len(theirs) != len(ours):
        k = agree.index(False) if not all(agree) else len(agree)
        here, there = (
            _kind(layers[numbers[k]]).__name__ if k < len(numbers) else "missing"
            for layers, numbers in ((model, ours), (source, theirs))
        )
        disagreement = f"layer {k} (blocks not counted) is {here} here and {there} in the weights"
        if len(theirs) != len(ours):
            agree[k:] = []
    agree += [False] * (len(ours) - len(agree))

    matches: list[int | None] = []
    for layer, place in zip(model, _places(model), strict=True):
        match = number_at.get(place)
        read: _BlockPlace | int | None = place
        while isinstance(read, _BlockPlace):  # through other blocks
            read = read.reads
        if is_block(layer):
            same = (
                match is not None
                and (read is None or agree[read])
                and _settings(source[match]) == _settings(layer)
                and _shapes(source[match]) == _shapes(layer)
            )
        else:
            same = read is not None and agree[read]
        matches.append(match if same else None)
    return Matching(tuple(matches), disagreement)


def report_transfer(
    source: Sequence[nn.Module], model: Sequence[nn.Module], matches: Sequence[int | None]
) -> WeightTransfer:
    """Report which tensors of a loaded model equal those of the source.

    Args:
        source: The layers of the source.
        model: The layers of the model after loading.
        matches: For each layer of the model the number of the source's layer that matches, or None.
    """
    kept = total = 0
    left_out = []
    blocks = [i for i, layer in enumerate(model) if is_block(layer)]
    for i, (layer, match) in enumerate(zip(model, matches, strict=True)):
        if i in blocks:
            continue
        tensors = layer.state_dict()
        origin = {} if match is None else source[match].state_dict()
        missing = {name: tensor for name, tensor in tensors.items() if not _same(tensor, origin.get(name))}
        total += len(tensors)
        kept += len(tensors) - len(missing)
        if missing:
            reason = "no such layer in the weights" if match is None else _why(missing, origin)
            if i == 0 and missing.keys() == {"conv.weight"} and reason == _OTHER_SHAPE:
                reason = _FILLED if missing["conv.weight"].shape[2:] == origin["conv.weight"].shape[2:] else reason
            left_out.append(LeftOut(i, _kind(layer).__name__, len(missing), reason))
    return WeightTransfer(
        kept=kept,
        total=total,
        new_blocks=tuple(i for i in blocks if matches[i] is None),
        kept_blocks=tuple(i for i in blocks if matches[i] is not None),
        dropped_blocks=tuple(i for i, layer in enumerate(source) if is_block(layer) and i not in matches),
        left_out=tuple(left_out),
        block=", ".join(sorted({class_name(_first(layer)) for layer in (*source, *model) if is_block(layer)})) or "ELA",
    )


def _places(layers: Sequence[nn.Module]) -> list[_BlockPlace | int]:
    """Return the place of each layer; of a layer that is no block, its number with blocks left out of the count."""
    places: list[_BlockPlace | int] = []
    before = ordinal = 0
    for number, layer in enumerate(layers):
        if is_block(layer):
            read = int(layer.f)  # type: ignore[arg-type]
            read += number if read < 0 else 0
            places.append(_BlockPlace(before, ordinal, places[read] if read >= 0 else None))
            ordinal += 1
        else:
            places.append(before)
            before += 1
            ordinal = 0
    return places


def _settings(block: nn.Module) -> str:
    """Return the settings that a block's weights depend on; the learning rate is not one of them."""
    return re.sub(r"(, |\n\s*)lr_mult=[\w.+-]+", "", repr(block))


def _shapes(block: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a block's tensors, which a user's block need not show in its ``repr``."""
    return {name: tensor.shape for name, tensor in block.state_dict().items()}


def _kind(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a layer. Where Ultralytics repeats a module, which the scale decides, return that class."""
    return type(_first(layer))


def _first(layer: nn.Module) -> nn.Module:
    return _first(layer[0]) if isinstance(layer, nn.Sequential) and len(layer) else layer


def _one_family(a: nn.Module, b: nn.Module) -> bool:
    shared = set(type(a).__mro__) & set(type(b).__mro__)
    return bool(shared - set(nn.Module.__mro__))


def _same(tensor: torch.Tensor, origin: torch.Tensor | None) -> bool:
    if origin is None or tensor.shape != origin.shape:
        return False
    origin = origin.to(tensor)
    return torch.equal(tensor, origin) or torch.allclose(tensor, origin, rtol=0, atol=0, equal_nan=True)


def _why(missing: dict[str, torch.Tensor], origin: dict[str, torch.Tensor]) -> str:
    if not missing.keys() & origin.keys():
        return "not in the weights"
    if all(name not in origin or origin[name].shape != tensor.shape for name, tensor in missing.items()):
        return _OTHER_SHAPE
    return "rearranged by Ultralytics, such as classes by their names"
