"""Blocks of the study alone: other attention that starts as the identity, and ELA whose convolution learns as fast."""

from __future__ import annotations

from torch import Tensor, nn

from ela_yolo.ela import ELA


class IdentitySE(nn.Module):
    """Squeeze-and-Excitation (arXiv:1709.01507) with a doubled gate that starts at 1, in ELA's ``identity`` manner.

    Its last layer starts at 0 and trains at ``lr_mult``.
    """

    def __init__(self, channels: int, lr_mult: float = 100) -> None:
        super().__init__()
        self.lr_mult = lr_mult
        self.reduce = nn.Conv2d(channels, max(channels // 16, 8), 1)
        self.expand = nn.Conv2d(self.reduce.out_channels, channels, 1)
        for parameter in self.gate_parameters():
            nn.init.zeros_(parameter)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train at ``lr_mult``."""
        return [*self.expand.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled by a gate for each channel."""
        gate: Tensor = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * 2 * gate


class IdentityECA(nn.Module):
    """Efficient Channel Attention (arXiv:1910.03151) with a doubled gate that starts at 1.

    Its convolution over the channels starts at 0 and trains at ``lr_mult``.
    """

    def __init__(self, channels: int, lr_mult: float = 100) -> None:
        super().__init__()
        self.lr_mult = lr_mult
        kernel_size = 3 if channels < 128 else 5
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.zeros_(self.conv.weight)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train at ``lr_mult``."""
        return [*self.conv.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled by a gate for each channel."""
        gate: Tensor = 2 * self.conv(x.mean((2, 3))[:, None]).sigmoid()
        return x * gate.squeeze(1)[:, :, None, None]


class WholeELA(ELA):
    """ELA-B in its ``identity`` form, whose convolution trains at ``lr_mult`` as its norm does."""

    def __init__(self, channels: int, lr_mult: float = 100) -> None:
        super().__init__(channels, gate="identity", lr_mult=lr_mult)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train at ``lr_mult``: all."""
        return [*self.parameters()]
