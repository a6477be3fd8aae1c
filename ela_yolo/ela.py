"""The ELA block. Checkpoints hold its module path, class name and parameter names, so these must not change."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Variant = Literal["T", "B", "S", "L"]
Gate = Literal["paper", "residual", "identity"]
LARGEST_LR_MULT = 300  # larger multiples were not tried with every optimizer


@dataclass(frozen=True)
class ELASettings:
    """The settings of one ELA block, with all group counts for its channels."""

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
    """Check the arguments of an ELA block, and take those that are None from its variant.

    If a group count of the variant does not divide ``channels``, the largest divisor below it is taken. A count that is
    given is not changed.

    Args:
        channels: The number of input and output channels.
        variant: ``T``, ``B``, ``S`` or ``L``; None means ``B``.
        gate: The gate form, ``paper``, ``residual`` or ``identity``; None means ``paper``.
        kernel_size: The kernel size of the Conv1d, which must be odd; None means the variant's.
        groups: The groups of the Conv1d; None means the variant's.
        num_groups: The groups of the GroupNorm; None means the variant's.
        lr_mult: Multiple of the learning rate, above 0 and at most 300; None means 1.

    Examples:
        >>> resolve_settings(64, "S")
        ELASettings(channels=64, variant='S', gate='paper', kernel_size=5, groups=8, num_groups=16, lr_mult=1)
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
    """Return a multiple of the learning rate if it is allowed.

    Raises:
        ValueError: If it is not a number above 0 and at most 300.
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


@contextmanager
def own_random_state() -> Iterator[None]:
    """Draw the weights of a block without advancing PyTorch's random state on the CPU.

    The other layers of a model then get the same initial weights with the block as without it.
    """
    state = torch.get_rng_state()
    try:
        seed = int(torch.randint(2**31, (1,), device="cpu"))  # so the block's numbers are not those of the next layer
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)


class ZeroGroupNorm(nn.GroupNorm):
    """A GroupNorm whose weight and bias start at 0, and are set to 0 when it is reset, so that its output is 0."""

    def reset_parameters(self) -> None:
        """Set weight and bias to 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


NORMS = (nn.GroupNorm, ZeroGroupNorm)


class ELA(nn.Module):
    """Efficient Local Attention: multiplies a feature map by two gates, one along its height and one along its width.

    The mean of the map over its width is a strip along the height, and the mean over its height a strip along the
    width. The gate of a strip is ``sigmoid(GroupNorm(Conv1d(strip)))``; both gates share the convolution and the norm.
    The gate form decides how the gates change the map ``x``:

    - ``paper``: ``x * gate_h * gate_w``, the formula of the paper.
    - ``residual``: ``x + x * gate_h * gate_w``, the authors' form for pretrained networks.
    - ``identity``: ``x * 2 * gate_h * 2 * gate_w``, with the weight and bias of the norm at 0 at the start. Until it is
      trained, the output equals ``x`` bit for bit, so a pretrained network keeps its results.

    The output has the dtype of ``x``, also under autocast, and its memory format. Both strips of a square map go
    through ``conv`` and ``gn`` as one batch.

    Args:
        channels: The number of input and output channels, C.
        variant: The sizes of the paper: ``T`` (kernel 5, depthwise, 32 norm groups), ``B`` (kernel 7, depthwise, 16
            norm groups), ``S`` (kernel 5, C/8 conv groups, 16 norm groups) or ``L`` (kernel 7, C/8 conv groups, 16 norm
            groups).
        gate: The gate form.
        kernel_size: The kernel size of the Conv1d, which must be odd; None means the variant's.
        groups: The groups of the Conv1d; None means the variant's.
        num_groups: The groups of the GroupNorm; None means the variant's.
        lr_mult: Multiple of the learning rate at which Ultralytics' trainer trains the weight and bias of the norm;
            None means 1. It does not change the output.
        device: The device of the parameters; None means PyTorch's default.
        dtype: The dtype of the parameters; None means PyTorch's default.

    Shape:
        - Input: ``(B, C, H, W)``
        - Output: ``(B, C, H, W)``

    Raises:
        ValueError: If an argument has another value; the message names the values that are allowed.

    Examples:
        >>> x = torch.rand(2, 64, 20, 12)
        >>> ELA(64)(x).shape
        torch.Size([2, 64, 20, 12])
        >>> torch.equal(ELA(64, gate="identity")(x), x)
        True

    Reference: Xu and Wan, ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv:2403.01123.
    """

    # Set in the copy of a model that is exported to a graph of one image size: "blocked" or "pooled", as named below.
    graph_form: str | None = None

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
        with own_random_state():
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
        norm = ZeroGroupNorm if settings.gate == "identity" else nn.GroupNorm
        self.gn = norm(settings.num_groups, settings.channels, device=device, dtype=dtype)

    @property
    def settings(self) -> ELASettings:
        """The settings of the block."""
        conv, gn = self.conv, self.gn
        sizes = (conv.kernel_size[0], conv.groups, gn.num_groups)
        return ELASettings(conv.out_channels, self.variant, self.gate, *sizes, self.lr_mult)

    @property
    def starts_as_identity(self) -> bool:
        """Whether the output equals the input until the block is trained."""
        return self.gate == "identity"

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained at ``lr_mult``: the weight and bias of the norm."""
        return [*self.gn.parameters()]

    @property
    def channels(self) -> int:
        """The number of input and output channels."""
        return self.settings.channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` multiplied by its gates."""
        if self.graph_form:
            return self._forward_blocked(x) if self.graph_form == "blocked" else self._forward_pooled(x)
        strip_h, strip_w = x.mean(dim=3), x.mean(dim=2)
        eager = not _is_recorded(x)
        if eager and x.shape[2] == x.shape[3] and type(self.gn) in NORMS:
            gate_h, gate_w = self.gate_of(torch.cat([strip_h, strip_w])).chunk(2)
        else:
            gate_h, gate_w = self.gate_of(strip_h), self.gate_of(strip_w)
        # A new copy of the map costs more than reading it, and only a backward needs the first product.
        return self.scale(x, gate_h, gate_w, in_place=eager and not torch.is_grad_enabled())

    def gate_of(self, strip: Tensor) -> Tensor:
        """Return the gate of a strip; in the ``identity`` form the sigmoid is doubled.

        Shape:
            - strip: ``(B, C, L)``
            - Output: as the strip
        """
        gn, mixed = self.gn, self.conv(strip)
        gate: Tensor
        if isinstance(gn, nn.GroupNorm) and isinstance(mixed, Tensor) and mixed.numel() == gn.num_groups:
            # nn.GroupNorm refuses a single value in a group, which a 1xN map can give. Two equal values give the same.
            gate = gn(mixed.expand(-1, -1, 2)).sigmoid()[:, :, :1]
        else:
            gate = gn(mixed).sigmoid()
        return 2 * gate if self.gate == "identity" else gate

    def scale(self, x: Tensor, gate_h: Tensor, gate_w: Tensor, in_place: bool = False) -> Tensor:
        """Return a map multiplied by its gates; in the ``residual`` form, the map is added.

        Shape:
            - x: ``(B, C, H, W)``
            - gate_h, gate_w: ``(B, C, H)`` and ``(B, C, W)``
            - Output: as x
        """
        scaled = x * gate_h.to(x.dtype)[:, :, :, None]
        wide = gate_w.to(x.dtype)[:, :, None, :]
        scaled = scaled.mul_(wide) if in_place else scaled * wide
        return x + scaled if self.gate == "residual" else scaled

    def _forward_blocked(self, x: Tensor) -> Tensor:
        """Return the same output, by operators that ONNX Runtime runs in the blocked layout of its convolutions.

        Means, broadcast products and scalars would convert the map to another layout and back. The pooling and the
        nearest upsampling hold the map's height and width as constants, so the graph is right for one size only.
        """
        channels, height, width = _constant_size(x)
        gate_h = self._map_gate(F.avg_pool2d(x, (1, width)), channels, axis=2)
        gate_w = self._map_gate(F.avg_pool2d(x, (height, 1)), channels, axis=3)
        scaled = x * F.interpolate(gate_h, scale_factor=(1, width)) * F.interpolate(gate_w, scale_factor=(height, 1))
        return x + scaled if self.gate == "residual" else scaled

    def _forward_pooled(self, x: Tensor) -> Tensor:
        """Return the same output, for runtimes that broadcast well: OpenVINO, MNN, ExecuTorch.

        Their means over the height are slow in the layout of their convolutions, and their average pools are not. Of a
        square map both strips go through convolution and norm as one batch, since small operators cost their launch.
        """
        channels, height, width = _constant_size(x)
        strip_h, strip_w = F.avg_pool2d(x, (1, width)), F.avg_pool2d(x, (height, 1))
        if height == width:
            gate_h, gate_w = self.gate_of(torch.cat([strip_h.flatten(2), strip_w.flatten(2)])).chunk(2)
            return self.scale(x, gate_h, gate_w)
        scaled = x * self._map_gate(strip_h, channels, axis=2) * self._map_gate(strip_w, channels, axis=3)
        return x + scaled if self.gate == "residual" else scaled

    def _map_gate(self, strip: Tensor, channels: int, axis: int) -> Tensor:
        """Return the gate of a strip that is a map, ``(B, C, H, 1)`` with axis 2, or ``(B, C, 1, W)`` with axis 3."""
        conv, gn = self.conv, self.gn
        pad, other = conv.kernel_size[0] // 2, 5 - axis
        padding = (pad, 0) if axis == 2 else (0, pad)
        mixed = F.conv2d(strip, conv.weight.unsqueeze(other), padding=padding, groups=conv.groups)
        norm = torch.group_norm(mixed, gn.num_groups, eps=gn.eps)
        affine = F.conv2d(norm, gn.weight[:, None, None, None], gn.bias, groups=channels)
        gate = affine.sigmoid()
        return gate + gate if self.gate == "identity" else gate

    def extra_repr(self) -> str:
        """Return the settings for the layer's ``repr``."""
        settings = {**vars(self.settings)}
        if self.lr_mult == 1:
            del settings["lr_mult"]
        return ", ".join(str(value) if name == "channels" else f"{name}={value}" for name, value in settings.items())


def _is_recorded(x: Tensor) -> bool:
    """Return whether a graph is made, which must hold neither the size of this map nor whether gradients are wanted."""
    compiler = getattr(torch, "compiler", None)  # since PyTorch 2.1
    compiles = hasattr(compiler, "is_compiling") and torch.compiler.is_compiling()
    traces = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return compiles or traces or isinstance(x, torch.fx.Proxy)


def _constant_size(x: Tensor) -> tuple[int, int, int]:
    """Return channels, height and width as numbers, which a trace holds as constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        channels, height, width = map(int, x.shape[1:])
    return channels, height, width
