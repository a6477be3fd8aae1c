"""Lets any attention block start as an exact identity, as ELA's ``identity`` form does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ela_yolo.ela import check_lr_mult, own_random_state


class IdentityStart(nn.Module):
    """Adds the change that a block makes, scaled by a learned factor per channel: ``x + scale * (block(x) - x)``.

    The factors start at 0, so the output equals ``x`` until the block is trained. A pretrained network keeps its
    results, and the block can be compared with ELA's ``identity`` form on equal terms.

    Args:
        channels: The number of input and output channels, C.
        block: The class of the block. Its first argument is the number of channels.
        lr_mult: Multiple of the learning rate at which Ultralytics' trainer trains the factors; None means 1.
        *options: The further arguments of the block.

    Shape:
        - Input: ``(B, C, H, W)``
        - Output: ``(B, C, H, W)``

    Examples:
        >>> from timm.layers import SEModule
        >>> x = torch.rand(2, 64, 20, 12)
        >>> torch.equal(IdentityStart(64, SEModule)(x), x)
        True
    """

    starts_as_identity = True

    def __init__(self, channels: int, block: type[nn.Module], lr_mult: float | None = None, *options: Any) -> None:
        super().__init__()
        self.lr_mult = check_lr_mult(1 if lr_mult is None else lr_mult)
        with own_random_state():
            self.block = block(channels, *options)
        self.scale = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set every factor to 0."""
        nn.init.zeros_(self.scale)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained at ``lr_mult``: the factors."""
        return [self.scale]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with the scaled change of the block."""
        changed: Tensor = self.block(x)
        return x + self.scale.to(x.dtype)[:, None, None] * (changed - x)

    def extra_repr(self) -> str:
        """Return the settings for the layer's ``repr``."""
        return f"lr_mult={self.lr_mult}" if self.lr_mult != 1 else ""
