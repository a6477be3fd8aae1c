"""The control of ELA: what is left of its gates where they look at nothing, a learned factor for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ela_yolo.ela import check_lr_mult


class ChannelScale(nn.Module):
    """Scales each channel of a feature map by a learned factor, ``x * (2 * sigmoid(bias))**2``.

    It is ELA's ``identity`` form with the norm's weight held at 0: the same factor at every place of every image. What
    a model with ELA gains beyond one with this block in the same places is attention. It starts as ``x``, bit for bit.

    Args:
        channels: Input and output channels.
        lr_mult: Multiple of the learning rate at which the factors are trained, as in ELA; None means 1.

    Shape:
        - Input: ``(B, C, H, W)``
        - Output: the same

    Raises:
        ValueError: If ``lr_mult`` is not above 0 and at most 300.

    Example:
        >>> ChannelScale(64, lr_mult=100)
        ChannelScale(64, lr_mult=100)
    """

    def __init__(self, channels: int, lr_mult: float | None = None) -> None:
        super().__init__()
        self.lr_mult = check_lr_mult(1 if lr_mult is None else lr_mult)
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set every factor to 1."""
        nn.init.zeros_(self.bias)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that ``lr_mult`` is about: all."""
        return [self.bias]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled."""
        return x * (2 * self.bias.sigmoid()).square().to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Return the channels, and the multiple where it is not 1."""
        return f"{len(self.bias)}" + (f", lr_mult={self.lr_mult}" if self.lr_mult != 1 else "")
