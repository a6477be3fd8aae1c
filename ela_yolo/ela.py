"""The ELA block. Its module path, class name and parameter names are a file format: checkpoints hold them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ela_yolo._ela_cpu import Form, apply_gates, scale_by_gates, serves

Variant = Literal["T", "B", "S", "L"]
Gate = Literal["paper", "residual", "identity"]
LARGEST_LR_MULT = 300  # above it trainings of every optimizer were not tried


@dataclass(frozen=True)
class ELASettings:
    """Every number of one ELA block, resolved for its channels."""

    channels: int
    variant: Variant
    gate: Gate
    kernel_size: int
    groups: int
    num_groups: int
    lr_mult: float = 1


def resolve_settings(
    channels: int,
    variant: str | None = None,
    gate: str | None = None,
    kernel_size: int | None = None,
    groups: int | None = None,
    num_groups: int | None = None,
    lr_mult: float | None = None,
) -> ELASettings:
    """Check the arguments of an ELA block and fill in what was left out from its variant.

    Where the paper's group counts do not divide ``channels``, the largest divisor not above them is taken. A count
    that the caller gave is never changed.

    Args:
        channels: Input and output channels.
        variant: ``T``, ``B``, ``S`` or ``L``; None means ``B``.
        gate: ``paper``, ``residual`` or ``identity``; None means ``paper``.
        kernel_size: Odd length of the Conv1d kernel; None means the variant's own.
        groups: Groups of the Conv1d; None means the variant's own.
        num_groups: Groups of the GroupNorm; None means the variant's own.
        lr_mult: Multiple of the learning rate, above 0 and at most 300; None means 1.

    Raises:
        ValueError: If an argument is not one of these; the message says what was expected and what came.
    """
    variant = "B" if variant is None else variant
    gate = "paper" if gate is None else gate
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    if gate not in get_args(Gate):
        raise ValueError(f"gate must be one of {', '.join(get_args(Gate))}, got {gate!r}")
    channels = _positive_int("channels", channels)

    if kernel_size is None:
        kernel_size = 5 if variant in "TS" else 7
    elif _positive_int("kernel_size", kernel_size) % 2 == 0:
        raise ValueError(f"kernel_size must be odd, so that the strip keeps its length, got {kernel_size}")

    if groups is None:
        groups = _largest_divisor(channels, channels if variant in "TB" else channels // 8)
    elif channels % _positive_int("groups", groups):
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")

    if num_groups is None:
        num_groups = _largest_divisor(channels, 32 if variant == "T" else 16)
    elif channels % _positive_int("num_groups", num_groups):
        raise ValueError(f"num_groups must divide the {channels} channels, got {num_groups}")

    lr_mult = check_lr_mult(1 if lr_mult is None else lr_mult)
    return ELASettings(channels, variant, gate, kernel_size, groups, num_groups, lr_mult)  # type: ignore[arg-type]


def check_lr_mult(value: object) -> float:
    """Return a multiple of the learning rate.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LARGEST_LR_MULT:
        raise ValueError(f"lr_mult must be a number above 0 and at most {LARGEST_LR_MULT}, got {value!r}")
    return value


def _positive_int(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def _largest_divisor(channels: int, limit: int) -> int:
    return next((d for d in range(min(limit, channels), 1, -1) if channels % d == 0), 1)


class ELA(nn.Module):
    """Scales a feature map by two gates, one along its height and one along its width.

    Each gate is ``sigmoid(GroupNorm(Conv1d(strip)))``, where the strip is the mean of the map over the other axis;
    convolution and norm are shared by both directions. The gate form decides what the gates do to the map:

    - ``paper``: ``x * g_h * g_w``, the formula of the paper.
    - ``residual``: ``x + x * g_h * g_w``, the authors' form for pretrained networks.
    - ``identity``: ``x * 2g_h * 2g_w`` with the norm's weight and bias at 0, which is ``x`` bit for bit until trained.

    The result has the map's dtype, also under autocast, and its memory format. ``conv`` and ``gn`` are called as
    modules wherever that can be noticed: with hooks, parametrizations, other settings, other modules in their place.

    ``lr_mult`` changes nothing here. Ultralytics' trainer, as ela-yolo registers it, trains the norm at that multiple
    of its learning rate.

    Args:
        channels: Input and output channels.
        variant: ``T`` (k=5, depthwise, 32 norm groups), ``B`` (k=7, depthwise, 16), ``S`` (k=5, C/8 conv groups, 16)
            or ``L`` (k=7, C/8 conv groups, 16).
        gate: The gate form.
        kernel_size: Odd length of the Conv1d kernel, in place of the variant's.
        groups: Groups of the Conv1d, in place of the variant's.
        num_groups: Groups of the GroupNorm, in place of the variant's.
        lr_mult: Multiple of the learning rate at which the norm's weight and bias are trained; None means 1.
        device: Where the parameters are made; None means PyTorch's default.
        dtype: The parameters' dtype; None means PyTorch's default.

    Shape:
        - Input: ``(B, C, H, W)``
        - Output: the same

    Raises:
        ValueError: If an argument is not as said; the message says what was expected and what came.

    Example:
        >>> ELA(64)(torch.zeros(2, 64, 20, 12)).shape
        torch.Size([2, 64, 20, 12])

    Reference: Xu and Wan, ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv:2403.01123.
    """

    # Set on the copy of a model that is exported to a graph of one fixed image size: see _forward_fixed_size.
    fixed_size = False
    lr_mult: float = 1  # of blocks that were saved before it was there

    def __init__(
        self,
        channels: int,
        variant: str | None = "B",
        gate: str | None = "paper",
        kernel_size: int | None = None,
        groups: int | None = None,
        num_groups: int | None = None,
        lr_mult: float | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        settings = resolve_settings(channels, variant, gate, kernel_size, groups, num_groups, lr_mult)
        self.variant = settings.variant
        self.gate = settings.gate
        self.lr_mult = settings.lr_mult
        self.conv = nn.Conv1d(
            settings.channels,
            settings.channels,
            settings.kernel_size,
            padding=settings.kernel_size // 2,
            groups=settings.groups,
            bias=False,
            device=device,
            dtype=dtype,
        )
        self.gn = nn.GroupNorm(settings.num_groups, settings.channels, device=device, dtype=dtype)
        self._start_as_identity()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._leave_reset_to_the_block()

    def reset_parameters(self) -> None:
        """Draw the convolution's weight anew and give the norm its initial values, 0 in the ``identity`` form."""
        for layer in (self.conv, self.gn):
            reset = getattr(type(layer), "reset_parameters", None)
            if reset is not None:
                reset(layer)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        if self.gate == "identity":
            for parameter in self.gn.parameters():
                nn.init.zeros_(parameter)
            self._leave_reset_to_the_block()

    def _leave_reset_to_the_block(self) -> None:
        # Who resets one module after the other, as YOLO.reset_weights does, comes to the norm after the block, and its
        # own method would set the weight to 1. A call of OrderedDict does nothing, and every checkpoint names it: those
        # who open one, also with weights_only, need no further name of this package.
        if self.gate == "identity":
            self.gn.reset_parameters = OrderedDict  # type: ignore[assignment, method-assign]

    @property
    def settings(self) -> ELASettings:
        """The numbers of the layers as they are now, since pruning changes them; None where another module has none."""
        conv, none = self.conv, cast(int, None)
        return ELASettings(
            getattr(conv, "out_channels", none),
            self.variant,
            self.gate,
            getattr(conv, "kernel_size", (none,))[0],
            getattr(conv, "groups", none),
            getattr(self.gn, "num_groups", none),
            self.lr_mult,
        )

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that ``lr_mult`` is about: the norm's."""
        return [*self.gn.parameters()]

    @property
    def channels(self) -> int:
        """Input and output channels."""
        return self.settings.channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled by its gates."""
        conv, gn = self.conv, self.gn
        if self.fixed_size:
            return self._forward_fixed_size(x)
        if serves(x, conv, gn):
            form = Form(conv.groups, gn.num_groups, gn.eps, self.gate)
            return scale_by_gates(x, conv.weight, gn.weight, gn.bias, form)
        return apply_gates(x, self._strip_gate(x.mean(dim=3)), self._strip_gate(x.mean(dim=2)), self.gate)

    def _strip_gate(self, strip: Tensor) -> Tensor:
        gn, mixed = self.gn, self.conv(strip)
        gate: Tensor
        if isinstance(gn, nn.GroupNorm) and isinstance(mixed, Tensor) and mixed.numel() == gn.num_groups:
            # nn.GroupNorm refuses a single value per group, which a 1xN map can give. Two that are alike give the same.
            gate = gn(mixed.expand(-1, -1, 2)).sigmoid()[:, :, :1]
        else:
            gate = gn(mixed).sigmoid()
        return gate

    def _forward_fixed_size(self, x: Tensor) -> Tensor:
        """Return the same by operators that ONNX Runtime has for the blocked channel layout of its convolutions.

        Means, broadcasting products and scalars would take the map out of that layout and back. Pooling and nearest
        upsampling hold the map's height and width as numbers, so the graph is right for one size alone.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            channels, height, width = map(int, x.shape[1:])
        gate_h = self._map_gate(F.avg_pool2d(x, (1, width)), channels, axis=2)
        gate_w = self._map_gate(F.avg_pool2d(x, (height, 1)), channels, axis=3)
        scaled = x * F.interpolate(gate_h, scale_factor=(1, width)) * F.interpolate(gate_w, scale_factor=(height, 1))
        return x + scaled if self.gate == "residual" else scaled

    def _map_gate(self, strip: Tensor, channels: int, axis: int) -> Tensor:
        """Return the gate of a strip that stays a map, (B, C, H, 1) or (B, C, 1, W), along the axis that it has."""
        conv, gn = self.conv, self.gn
        pad, other = conv.kernel_size[0] // 2, 5 - axis
        padding = (pad, 0) if axis == 2 else (0, pad)
        mixed = F.conv2d(strip, conv.weight.unsqueeze(other), padding=padding, groups=conv.groups)
        norm = torch.group_norm(mixed, gn.num_groups, eps=gn.eps)
        affine = F.conv2d(norm, gn.weight[:, None, None, None], gn.bias, groups=channels)
        gate = affine.sigmoid()
        return gate + gate if self.gate == "identity" else gate

    def extra_repr(self) -> str:
        """Return the numbers of the layers, the resolved groups among them."""
        settings = {**vars(self.settings)}
        if self.lr_mult == 1:
            del settings["lr_mult"]
        return ", ".join(str(value) if name == "channels" else f"{name}={value}" for name, value in settings.items())
