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
from ela_yolo.host.model_blocks import named_blocks


@dataclass(frozen=True)
class Gates:
    """The gates of one block, by which it multiplies the map. In the ``identity`` form they are doubled sigmoids.

    Attributes:
        along_h: The gate along the height, ``(B, C, H)``.
        along_w: The gate along the width, ``(B, C, W)``.
        form: The gate form.
        variant: The block's variant.
        gain: The factor by which the block multiplies what is in the map, ``(B, H, W)``: at each place the mean of the
            channels' factors, weighted by the size of their values there.
    """

    along_h: Tensor
    along_w: Tensor
    form: str
    variant: str
    gain: Tensor

    @property
    def block(self) -> str:
        """The block's variant and gate form, such as ``ELA-B paper``."""
        return block_name(self.variant, self.form)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.along_h.shape[2], self.along_w.shape[2]

    def sigmoids(self) -> tuple[Tensor, Tensor]:
        """Return both gates before any doubling, each in 0 to 1."""
        doubled = 2 if self.form == "identity" else 1
        return self.along_h / doubled, self.along_w / doubled

    def channel_maps(self) -> Tensor:
        """Return the factor by which the block multiplies each place of each channel.

        Shape:
            - Output: ``(B, C, H, W)``
        """
        product = self.along_h[..., None] * self.along_w[..., None, :]
        return 1 + product if self.form == "residual" else product

    def scale_map(self) -> Tensor:
        """Return the factor by which the block multiplies each place of the map, as the mean over the channels.

        Shape:
            - Output: ``(B, H, W)``
        """
        product = torch.einsum("bch,bcw->bhw", self.along_h, self.along_w) / self.along_h.shape[1]
        return 1 + product if self.form == "residual" else product

    def relative_gain(self) -> Tensor:
        """Return the gain divided by its mean over the map: above 1 where the block favours what is there.

        Shape:
            - Output: ``(B, H, W)``
        """
        return self.gain / self.gain.mean((1, 2), keepdim=True)


@contextmanager
def capture_gates(model: nn.Module) -> Iterator[dict[str, Gates]]:
    """Capture the gates of a model's ELA blocks within a ``with`` block.

    Args:
        model: A model with ELA, or a wrapper of Ultralytics or PyTorch around it, such as DDP. ``YOLO.predict`` runs a
            copy of the model, which is ``model.predictor.model``.

    Yields:
        A dict that holds the gates of the latest forward: layer -> ``along_h`` ``(B, C, H)``, ``along_w``
        ``(B, C, W)``, ``gain`` ``(B, H, W)``, ``form``, ``variant``, and the methods ``scale_map()``,
        ``channel_maps()``, ``relative_gain()`` and ``sigmoids()``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), ELA(16, gate="identity"))
        >>> with capture_gates(model) as gates:
        ...     _ = model(torch.zeros(1, 3, 64, 48))
        >>> gates["1"].block, gates["1"].map_size
        ('ELA-B identity', (16, 12))
        >>> gates["1"].scale_map().mean()  # a new block in the identity form multiplies by 1
        tensor(1.)
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


def block_name(variant: str, form: str) -> str:
    """Return the name of a block in pictures and tables, such as ``ELA-B paper``."""
    return f"ELA-{variant} {form}"


def gates_of(block: ELA, x: Tensor) -> Gates:
    """Return the gates of a block for an input, without gradients.

    Shape:
        - x: ``(B, C, H, W)``
    """
    along_h, along_w = strip_gates(block, x)
    return Gates(along_h, along_w, block.gate, block.variant, gain_map(x, along_h, along_w, block.gate))


def strip_gates(block: ELA, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gates along height and width, ``(B, C, H)`` and ``(B, C, W)``, by which a block multiplies its input.

    Shape:
        - x: ``(B, C, H, W)``
    """
    with torch.no_grad():
        along_h, along_w = block._strip_gate(x.mean(dim=3)), block._strip_gate(x.mean(dim=2))
        return (2 * along_h, 2 * along_w) if block.gate == "identity" else (along_h, along_w)


def gain_map(x: Tensor, along_h: Tensor, along_w: Tensor, form: str) -> Tensor:
    """Return ``sum_c |x_c| g_c / sum_c |x_c|`` at each place, where ``g_c`` is the factor of a channel.

    Where all channels are 0, they count alike.

    Shape:
        - x: ``(B, C, H, W)``
        - Output: ``(B, H, W)``, of float32
    """
    with torch.no_grad():
        sizes = x.float().abs()
        sizes = sizes.where(sizes.sum(1, keepdim=True) > 0, torch.ones_like(sizes))
        gain = (sizes * along_h[..., None] * along_w[..., None, :]).sum(1) / sizes.sum(1)
        return 1 + gain if form == "residual" else gain


def listen(model: nn.Module, hear: Callable[[str, ELA, Tensor, Tensor], None]) -> list[RemovableHandle]:
    """Call ``hear`` with layer, block, input and output after each forward of an ELA block."""

    def hook_of(layer: str) -> Callable[..., None]:
        def hook(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                hear(layer, block, inputs[0], output)

        return hook

    return [block.register_forward_hook(hook_of(layer)) for layer, block in named_blocks(model).items()]
