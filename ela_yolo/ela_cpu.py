"""The formula of the ELA block in as few operators and copies of the map as eager PyTorch allows on a CPU.

There each operator costs about as much as its work on a strip, and each new copy of the map more than reading it. So
both strips go through convolution, norm and sigmoid as one tensor, a depthwise convolution is a sum of shifted strips,
since oneDNN reorders its operands at each call, and the map is scaled in place of the one copy that is returned.

The strips are sums, not means: the norm takes out any factor, if its eps is scaled by the factor's square.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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


class _Norm(NamedTuple):
    """The norm of one strip, or of both, (2B, C, L), where they are of one length.

    Attributes:
        strip: What it takes, (B, C, H) or (B, C, W).
        mean: Of each sample's group, (B, num_groups).
        rstd: The reciprocal standard deviation, likewise.
        gate: The sigmoid of its result, as large as the strip.
    """

    strip: Tensor
    mean: Tensor
    rstd: Tensor
    gate: Tensor


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
    _, norms = _through_strips(x, conv, gamma, beta, form)
    return _scale(x, *_along_both(norms, form), form)


def _through_strips(
    x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form
) -> tuple[Tensor, tuple[_Norm, ...]]:
    """Return the sums of both strips with the convolution's padding, (2B, C, L + 2 * padding), and the norms.

    L is the larger of H and W; what lies behind the end of a shorter strip means nothing.
    """
    batch, _, height, width = x.shape
    pad = conv.shape[2] // 2
    along_h, along_w = x.sum(3), x.sum(2)
    if height != width:
        length = max(height, width)
        along_h = torch.constant_pad_nd(along_h, (0, length - height))
        along_w = torch.constant_pad_nd(along_w, (0, length - width))
    sums = torch.constant_pad_nd(torch.cat((along_h, along_w)), (pad, pad))
    mixed = _convolve(sums, conv, form.groups)
    if height == width:
        return sums, (_normalise(mixed, gamma, beta, form, width),)
    mixed_h, mixed_w = mixed[:batch, :, :height].contiguous(), mixed[batch:, :, :width].contiguous()
    return sums, (_normalise(mixed_h, gamma, beta, form, width), _normalise(mixed_w, gamma, beta, form, height))


def _normalise(strip: Tensor, gamma: Tensor, beta: Tensor, form: Form, summed: int) -> _Norm:
    batch, channels, length = strip.shape
    normed, mean, rstd = torch.native_group_norm(
        strip, gamma, beta, batch, channels, length, form.num_groups, form.eps * summed**2
    )
    return _Norm(strip, mean, rstd, normed.sigmoid_())


def _convolve(padded: Tensor, conv: Tensor, groups: int) -> Tensor:
    """Return the convolution of strips that are padded already."""
    if groups < conv.shape[0]:
        return torch.conv1d(padded, conv, groups=groups)
    taps = conv.unbind(2)  # (C, 1) each
    windows = padded.unfold(2, len(taps), 1).unbind(3)  # (2B, C, L) each
    total = windows[0] * taps[0]
    for window, tap in zip(windows[1:], taps[1:], strict=True):
        total.addcmul_(window, tap)
    return total


def _along_both(norms: tuple[_Norm, ...], form: Form) -> tuple[Tensor, Tensor]:
    """Return the gates as they scale the map, (B, C, H, 1) and (B, C, 1, W)."""
    gates = [norm.gate for norm in norms] if form.gate != "identity" else [2 * norm.gate for norm in norms]
    along_h, along_w = gates if len(gates) == 2 else gates[0].chunk(2)
    return along_h.unsqueeze(3), along_w.unsqueeze(2)


def _scale(x: Tensor, gate_h: Tensor, gate_w: Tensor, form: Form) -> Tensor:
    scaled = x * gate_h
    return torch.addcmul(x, scaled, gate_w, out=scaled) if form.gate == "residual" else scaled.mul_(gate_w)


class _ScaleByGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> Tensor:
        sums, norms = _through_strips(x, conv, gamma, beta, form)
        ctx.save_for_backward(x, conv, gamma, sums, *chain.from_iterable(norms))
        ctx.form = form
        return _scale(x, *_along_both(norms, form), form)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, conv, gamma, sums, *saved = ctx.saved_tensors
        form = ctx.form
        height, width = x.shape[2:]
        norms = tuple(_Norm(*saved[start : start + 4]) for start in range(0, len(saved), 4))
        gate_h, gate_w = _along_both(norms, form)

        # The only new copy of the map. A batched matrix product for each gate would need one product of both, but is
        # slower than computing that product again.
        buffer = x * grad
        grad_h = buffer.mul_(gate_w).sum(3)
        grad_w = torch.mul(x, grad, out=buffer).mul_(gate_h).sum(2)
        grad_gates = (torch.cat((grad_h, grad_w)),) if height == width else (grad_h, grad_w)
        if form.gate == "identity":
            for grad_gate in grad_gates:
                grad_gate.mul_(2)
        grad_sums, grad_conv, grad_gamma, grad_beta = _back_through_strips(sums, norms, grad_gates, conv, gamma, form)

        torch.mul(grad, gate_h, out=buffer)
        along_h, along_w = grad_sums.chunk(2)
        torch.addcmul(along_w[:, :, None, :width], buffer, gate_w, out=buffer)
        buffer.add_(along_h[:, :, :height, None])
        if form.gate == "residual":
            buffer.add_(grad)
        return buffer, grad_conv, grad_gamma, grad_beta, None


def _back_through_strips(
    sums: Tensor, norms: tuple[_Norm, ...], grad_gates: tuple[Tensor, ...], conv: Tensor, gamma: Tensor, form: Form
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the sums, without padding (2B, C, L), and of the three weights."""
    kernel_size, pad = conv.shape[2], conv.shape[2] // 2
    length = sums.shape[2] - 2 * pad
    grads = []
    for norm, grad_gate in zip(norms, grad_gates, strict=True):
        grad_normed = torch.ops.aten.sigmoid_backward(grad_gate, norm.gate)
        sizes = *norm.strip.shape, form.num_groups
        wanted = [True, True, True]
        grads.append(
            torch.ops.aten.native_group_norm_backward(
                grad_normed, norm.strip, norm.mean, norm.rstd, gamma, *sizes, wanted
            )
        )
    grad_mixed, grad_gamma, grad_beta = grads[0]
    if len(grads) == 2:
        both = (torch.constant_pad_nd(grad, (0, length - grad.shape[2])) for grad, *_ in grads)
        grad_mixed, grad_gamma, grad_beta = torch.cat([*both]), grad_gamma + grads[1][1], grad_beta + grads[1][2]

    if form.groups < conv.shape[0]:
        grad_padded = conv_grad.conv1d_input(sums.shape, conv, grad_mixed, groups=form.groups)
        grad_sums = grad_padded[:, :, pad : pad + length]
        grad_conv = conv_grad.conv1d_weight(sums, conv.shape, grad_mixed, groups=form.groups)
    else:
        grad_sums = _convolve(torch.constant_pad_nd(grad_mixed, (pad, pad)), conv.flip(2), form.groups)
        windows = sums.unfold(2, kernel_size, 1)  # (2B, C, L, kernel_size)
        grad_conv = (windows * grad_mixed.unsqueeze(3)).sum(2).sum(0).unsqueeze(1)  # faster than .sum((0, 2))
    return grad_sums, grad_conv, grad_gamma, grad_beta
