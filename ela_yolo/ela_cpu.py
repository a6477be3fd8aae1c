"""The formula of the ELA block in as few operators and copies of the map as eager PyTorch allows on a CPU.

There each operator costs about as much as its work on a strip, and each new copy of the map more than reading it. So
both strips go through convolution, norm and sigmoid as one tensor, a depthwise convolution is a sum of shifted strips,
since oneDNN reorders its operands at each call, and the map is scaled in place of the one copy that is returned.

The strips are sums, not means: the norm takes out any factor, if its eps is scaled by the factor's square.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn import grad as conv_grad


class Form(NamedTuple):
    """What is no tensor in the formula.

    Attributes:
        groups: Groups of the convolution.
        num_groups: Groups of the norm.
        eps: Of the norm.
        gate: The gate form.
    """

    groups: int
    num_groups: int
    eps: float
    gate: str


class _Strips(NamedTuple):
    """What becomes of the two strips; L is the larger of H and W, and what lies behind the smaller means nothing.

    Attributes:
        sums: Both strips with the convolution's padding, (2B, C, L + kernel_size - 1).
        mixed: What the norm takes: where H = W both strips, (2B, C, L), else each, (B, C, H) and (B, C, W).
        stats: The norm's means and reciprocal deviations, likewise.
        gates: The sigmoids, likewise.
    """

    sums: Tensor
    mixed: tuple[Tensor, ...]
    stats: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]

    def along_both(self, factor: int) -> tuple[Tensor, Tensor]:
        """Return the gates as they scale the map, (B, C, H, 1) and (B, C, 1, W)."""
        gates = tuple(gate * factor for gate in self.gates) if factor != 1 else self.gates
        along_h, along_w = gates if len(gates) == 2 else gates[0].chunk(2)
        return along_h.unsqueeze(3), along_w.unsqueeze(2)


def scale_by_gates(x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> Tensor:
    """Return the map scaled by its gates.

    For training it keeps the map itself and strips, nothing else of the map's size. Second derivatives are refused.

    Args:
        x: The map, in the dtype of the weights.
        conv: The weight of the convolution.
        gamma: The weight of the norm.
        beta: The bias of the norm.
        form: The rest.

    Shape:
        - x: ``(B, C, H, W)``
        - conv: ``(C, C / groups, kernel_size)``
        - gamma, beta: ``(C,)``
        - Output: ``(B, C, H, W)``
    """
    if torch.is_grad_enabled():
        scaled: Tensor = _ScaleByGates.apply(x, conv, gamma, beta, form)
        return scaled
    return _scale(x, *_through_strips(x, conv, gamma, beta, form).along_both(_factor(form)), form)


def _factor(form: Form) -> int:
    return 2 if form.gate == "identity" else 1


def _through_strips(x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> _Strips:
    batch, channels, height, width = x.shape
    strips = x.sum(3), x.sum(2)
    if height != width:
        length = max(height, width)
        strips = F.pad(strips[0], (0, length - height)), F.pad(strips[1], (0, length - width))
    pad = conv.shape[2] // 2
    sums = F.pad(torch.cat(strips), (pad, pad))
    both = _convolve(sums, conv, form.groups)  # (2B, C, L)
    mixed: tuple[Tensor, ...] = (both,)
    if height != width:
        mixed = both[:batch, :, :height].contiguous(), both[batch:, :, :width].contiguous()
    normed = [
        torch.native_group_norm(strip, gamma, beta, len(strip), channels, strip.shape[2], form.num_groups, eps)
        for strip, eps in zip(mixed, (form.eps * width**2, form.eps * height**2), strict=False)
    ]
    stats = tuple(stat for _, *both_stats in normed for stat in both_stats)
    return _Strips(sums, mixed, stats, tuple(norm.sigmoid_() for norm, *_ in normed))


def _convolve(padded: Tensor, conv: Tensor, groups: int) -> Tensor:
    """Return the convolution of strips that are padded already."""
    if groups < conv.shape[0]:
        return F.conv1d(padded, conv, groups=groups)
    taps = conv.unbind(2)  # (C, 1) each
    windows = padded.unfold(2, len(taps), 1).unbind(3)  # (2B, C, L) each
    total = windows[0] * taps[0]
    for window, tap in zip(windows[1:], taps[1:], strict=True):
        total.addcmul_(window, tap)
    return total


def _scale(x: Tensor, gate_h: Tensor, gate_w: Tensor, form: Form) -> Tensor:
    scaled = x * gate_h
    return torch.addcmul(x, scaled, gate_w, out=scaled) if form.gate == "residual" else scaled.mul_(gate_w)


class _ScaleByGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> Tensor:
        strips = _through_strips(x, conv, gamma, beta, form)
        ctx.save_for_backward(x, conv, gamma, strips.sums, *strips.mixed, *strips.stats, *strips.gates)
        ctx.form = form
        return _scale(x, *strips.along_both(_factor(form)), form)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, conv, gamma, sums, *rest = ctx.saved_tensors
        form, count = ctx.form, len(rest) // 4
        strips = _Strips(sums, tuple(rest[:count]), tuple(rest[count:-count]), tuple(rest[-count:]))
        height, width = x.shape[2:]
        factor = _factor(form)
        gate_h, gate_w = strips.along_both(factor)

        # The only new copy of the map. A batched matrix product for each gate would need one product of both, but is
        # slower than computing that product again.
        buffer = x * grad
        grad_h = buffer.mul_(gate_w).sum(3)
        grad_w = torch.mul(x, grad, out=buffer).mul_(gate_h).sum(2)
        if factor != 1:
            grad_h, grad_w = grad_h.mul_(factor), grad_w.mul_(factor)
        grad_gates = (torch.cat((grad_h, grad_w)),) if count == 1 else (grad_h, grad_w)
        grad_sums, grad_conv, grad_gamma, grad_beta = _back_through_strips(strips, grad_gates, conv, gamma, form)

        torch.mul(grad, gate_h, out=buffer)
        along_h, along_w = grad_sums.chunk(2)
        torch.addcmul(along_w[:, :, None, :width], buffer, gate_w, out=buffer)
        buffer.add_(along_h[:, :, :height, None])
        if form.gate == "residual":
            buffer.add_(grad)
        return buffer, grad_conv, grad_gamma, grad_beta, None


def _back_through_strips(
    strips: _Strips, grad_gates: tuple[Tensor, ...], conv: Tensor, gamma: Tensor, form: Form
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the sums, without padding (2B, C, L), and of the three weights."""
    _, channels, padded = strips.sums.shape
    pad = conv.shape[2] // 2
    length = padded - 2 * pad
    grads = []
    for i, (grad_gate, gate, strip) in enumerate(zip(grad_gates, strips.gates, strips.mixed, strict=True)):
        grad_norm = torch.ops.aten.sigmoid_backward(grad_gate, gate)
        stats = strips.stats[2 * i : 2 * i + 2]
        sizes = len(strip), channels, strip.shape[2], form.num_groups
        wanted = [True, True, True]
        grads.append(torch.ops.aten.native_group_norm_backward(grad_norm, strip, *stats, gamma, *sizes, wanted))
    of_strips, of_gamma, of_beta = zip(*grads, strict=True)
    grad_both = of_strips[0]
    if len(of_strips) == 2:
        grad_both = torch.cat([F.pad(grad, (0, length - grad.shape[2])) for grad in of_strips])
    grad_gamma, grad_beta = sum(of_gamma[1:], of_gamma[0]), sum(of_beta[1:], of_beta[0])

    if form.groups < channels:
        of_padded = conv_grad.conv1d_input(strips.sums.shape, conv, grad_both, groups=form.groups)
        grad_sums = of_padded[:, :, pad : pad + length]
        grad_conv = conv_grad.conv1d_weight(strips.sums, conv.shape, grad_both, groups=form.groups)
    else:
        grad_sums = _convolve(F.pad(grad_both, (pad, pad)), conv.flip(2), form.groups)
        windows = strips.sums.unfold(2, conv.shape[2], 1)  # (2B, C, L, kernel_size)
        grad_conv = (windows * grad_both.unsqueeze(3)).sum(2).sum(0).unsqueeze(1)  # faster than .sum((0, 2))
    return grad_sums, grad_conv, grad_gamma, grad_beta
