"""The control of ELA in comparisons: a learned factor for each channel, without attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ela_yolo.ela import check_lr_mult


class ChannelScale(nn.Module):
    """Multiplies each channel of a feature map by a learned factor, ``x * (2 * sigmoid(bias))**2``.

    This is ELA's ``identity`` form with the norm's weight held at 0, so the factor is the same at every place of every
    image. A model with ELA can be compared with the same model with this block in its place: the difference is due to
    attention. Until it is trained, the output equals ``x`` bit for bit.

    Args:
        channels: The number of input and output channels, C.
        lr_mult: Multiple of the learning rate at which Ultralytics' trainer trains the factors; None means 1.

    Shape:
        - Input: ``(B, C, H, W)``
        - Output: ``(B, C, H, W)``

    Examples:
        >>> ChannelScale(64, lr_mult=100)
        ChannelScale(64, lr_mult=100)
    """

    starts_as_identity = True

    def __init__(self, channels: int, lr_mult: float | None = None) -> None:
        super().__init__()
        self.lr_mult = check_lr_mult(1 if lr_mult is None else lr_mult)
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Set every factor to 1."""
        nn.init.zeros_(self.bias)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained at ``lr_mult``: all of them."""
        return [self.bias]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` multiplied by the factors."""
        return x * (2 * self.bias.sigmoid()).square().to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Return the settings for the layer's ``repr``."""
        return f"{len(self.bias)}" + (f", lr_mult={self.lr_mult}" if self.lr_mult != 1 else "")
