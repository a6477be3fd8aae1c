"""The gates of a model's ELA blocks, caught while the model runs.

A hook on each block computes its gates once more from the map that the block gets.
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
from ela_yolo.host.model_blocks import named_blocks


@dataclass(frozen=True)
class Gates:
    """The gates of one block as they multiply the map: those of the ``identity`` form are doubled sigmoids.

    Attributes:
        along_h: The gate along the height, (B, C, H).
        along_w: The gate along the width, (B, C, W).
        form: The gate form.
        variant: The block's variant.
    """

    along_h: Tensor
    along_w: Tensor
    form: str
    variant: str

    @property
    def block(self) -> str:
        """Variant and gate form, such as ``ELA-B paper``."""
        return f"ELA-{self.variant} {self.form}"

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.along_h.shape[2], self.along_w.shape[2]

    def sigmoids(self) -> tuple[Tensor, Tensor]:
        """Return both gates before any doubling, each in 0 to 1."""
        doubled = 2 if self.form == "identity" else 1
        return self.along_h / doubled, self.along_w / doubled

    def scale_map(self) -> Tensor:
        """Return by what each place of the map is multiplied, as the mean over the channels.

        Shape:
            - Output: ``(B, H, W)``
        """
        product = torch.einsum("bch,bcw->bhw", self.along_h, self.along_w) / self.along_h.shape[1]
        return 1 + product if self.form == "residual" else product


@contextmanager
def capture_gates(model: nn.Module) -> Iterator[dict[str, Gates]]:
    """Give a dict that holds layer -> gates of the model's latest forward, in the order of the layers.

    Args:
        model: A model, or what :func:`named_blocks` takes. Ultralytics predicts with a copy: ``model.predictor.model``.
    """
    latest: dict[str, Gates] = {}

    def keep(layer: str, block: ELA, x: Tensor, _: Tensor) -> None:
        latest[layer] = gates_of(block, x)

    handles = listen(model, keep)
    try:
        yield latest
    finally:
        for handle in handles:
            handle.remove()


def gates_of(block: ELA, x: Tensor) -> Gates:
    """Return the gates of a block for a map, without gradients.

    Shape:
        - x: ``(B, C, H, W)``
    """
    with torch.no_grad():
        along_h, along_w = block._strip_gate(x.mean(dim=3)), block._strip_gate(x.mean(dim=2))
        if block.gate == "identity":
            along_h, along_w = 2 * along_h, 2 * along_w
    return Gates(along_h, along_w, block.gate, block.variant)


def listen(model: nn.Module, hear: Callable[[str, ELA, Tensor, Tensor], None]) -> list[RemovableHandle]:
    """Call ``hear`` with layer, block, input and output after each forward of an ELA block."""

    def hook_of(layer: str) -> Callable[..., None]:
        def hook(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                hear(layer, block, inputs[0], output)

        return hook

    return [block.register_forward_hook(hook_of(layer)) for layer, block in named_blocks(model).items()]
