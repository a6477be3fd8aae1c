"""Captures the gates of a model's ELA blocks while the model runs.

A hook on each block computes the gates once more from the input of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ela_yolo.ela import ELA
from ela_yolo.host.blocks import ela_name
from ela_yolo.host.model_blocks import ela_blocks


@dataclass(frozen=True)
class Gates:
    """The gates of one block, by which it multiplies the map. In the ``identity`` form they are doubled sigmoids.

    Attributes:
        along_h: The gate along the height, ``(B, C, H)``.
        along_w: The gate along the width, ``(B, C, W)``.
        form: The gate form.
        variant: The block's variant.
    """

    along_h: Tensor
    along_w: Tensor
    form: str
    variant: str

    @property
    def block(self) -> str:
        """The block's variant and gate form, such as ``ELA-B paper``."""
        return ela_name(self.variant, self.form)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.along_h.shape[2], self.along_w.shape[2]

    def sigmoids(self) -> tuple[Tensor, Tensor]:
        """Return both gates before any doubling, each in 0 to 1."""
        doubled = 2 if self.form == "identity" else 1
        return self.along_h / doubled, self.along_w / doubled


@contextmanager
def capture_gates(model: nn.Module) -> Iterator[dict[str, Gates]]:
    """Capture the gates of a model's ELA blocks within a ``with`` block.

    Args:
        model: A model with ELA, or a wrapper of Ultralytics or PyTorch around it, such as DDP. ``YOLO.predict`` runs a
            copy of the model, which is ``model.predictor.model``.

    Yields:
        A dict that holds the gates of the latest forward: layer -> ``along_h`` ``(B, C, H)``, ``along_w``
        ``(B, C, W)``, ``form``, ``variant``, and the method ``sigmoids()``.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), ELA(16, gate="identity"))
        >>> with capture_gates(model) as gates:
        ...     _ = model(torch.zeros(1, 3, 64, 48))
        >>> gates["1"].block, gates["1"].map_size
        ('ELA-B identity', (16, 12))
        >>> gates["1"].along_h.mean()  # a new block in the identity form multiplies by 1
        tensor(1.)
    """
    latest: dict[str, Gates] = {}

    def keep(layer: str, block: ELA, x: Tensor) -> None:
        latest[layer] = gates_of(block, x)

    handles = hook_blocks(model, keep)
    try:
        yield latest
    finally:
        for handle in handles:
            handle.remove()


def gates_of(block: ELA, x: Tensor) -> Gates:
    """Return the gates of a block for an input, without gradients.

    Shape:
        - x: ``(B, C, H, W)``
    """
    with torch.no_grad():
        return Gates(block.gate_of(x.mean(3)), block.gate_of(x.mean(2)), block.gate, block.variant)


def hook_blocks(model: nn.Module, callback: Callable[[str, ELA, Tensor], None]) -> list[RemovableHandle]:
    """Call ``callback`` with layer, block and input after each forward of an ELA block."""

    def hook_of(layer: str) -> Callable[..., None]:
        def hook(block: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            callback(layer, block, inputs[0])

        return hook

    return [block.register_forward_hook(hook_of(layer)) for layer, block in ela_blocks(model).items()]
