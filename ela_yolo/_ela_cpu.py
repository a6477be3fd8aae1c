"""The formula of the ELA block for eager PyTorch on a CPU, with few operators and few copies of the map.

On a CPU the call of an operator costs about as much as its work on a strip, and a new copy of the map costs more than
reading it. So both strips go through convolution, norm and sigmoid as one tensor, and the map is scaled in place in the
one copy that is returned. A depthwise convolution is a sum of shifted strips, because oneDNN reorders its operands at
each call.

The strips are sums, not means: the norm removes any factor, if its eps is multiplied by the square of the factor.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import grad as conv_grad
from torch.nn.modules import module as every_module
from torch.torch_version import TorchVersion

_HAS_QUERIES = TorchVersion(torch.__version__) >= "2.4"  # before, torch cannot answer all that `serves` asks
_PLAIN = (Tensor, nn.Parameter)  # subclasses of tensors have operators of their own
_HOOKS_OF_EVERY_MODULE: tuple[Any, ...] = (
    every_module._global_forward_hooks,
    every_module._global_forward_pre_hooks,
    every_module._global_backward_hooks,
    every_module._global_backward_pre_hooks,
)


class Form(NamedTuple):
    """The settings in the formula.

    Attributes:
        groups: The groups of the convolution.
        num_groups: The groups of the norm.
        eps: The eps of the norm.
        gate: The gate form.
    """

    groups: int
    num_groups: int
    eps: float
    gate: str


class _Norm(NamedTuple):
    """The norm of one strip; if both strips have the same length, of both as one tensor ``(2B, C, L)``.

    Attributes:
        strip: The input of the norm, ``(B, C, H)`` or ``(B, C, W)``.
        mean: The mean of each sample's groups, ``(B, num_groups)``.
        rstd: The reciprocal of their standard deviation, ``(B, num_groups)``.
        gate: The sigmoid of the output, in the shape of the strip.
    """

    strip: Tensor
    mean: Tensor
    rstd: Tensor
    gate: Tensor


def are_as_built(conv: nn.Conv1d, gn: nn.GroupNorm) -> bool:
    """Return whether these layers are as ELA builds them, without hooks, so that they need not be called as modules."""
    if any(_HOOKS_OF_EVERY_MODULE) or not (_is_bare(conv, nn.Conv1d) and _is_bare(gn, nn.GroupNorm)):
        return False
    weight, gamma, beta = conv.weight, gn.weight, gn.bias
    if conv.bias is not None or gamma is None or beta is None:
        return False
    channels, per_group, kernel_size = weight.shape
    return (
        kernel_size % 2 == 1
        and conv.padding == (kernel_size // 2,)
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1,)
        and conv.groups * per_group == channels == len(gamma) == len(beta)
        and channels % gn.num_groups == 0
    )


def _is_bare(layer: nn.Module, kind: type[nn.Module]) -> bool:
    return (
        type(layer) is kind  # a parametrized layer is of a class of its own
        and vars(layer).keys().isdisjoint(("forward", "_conv_forward", "_call_impl"))
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
    )


def serves(x: Tensor, conv: nn.Conv1d, gn: nn.GroupNorm) -> bool:
    """Return whether :func:`scale_by_gates` may replace the plain formula: in eager computations on a CPU.

    Compilers and exporters get the plain formula, which they know how to fuse. So do forward-mode differentiation and
    modes that intercept operators, and PyTorch before 2.4.
    """
    return (
        _HAS_QUERIES
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(x) in _PLAIN  # torch.fx passes proxies
        and x.is_cpu
        and x.layout is torch.strided
        and x.dtype in (torch.float32, torch.float64)
        and x.ndim == 4
        and are_as_built(conv, gn)
        and x.shape[1] == conv.weight.shape[0]  # otherwise the convolution raises the error
        and all(
            type(weight) in _PLAIN and weight.is_cpu and weight.dtype == x.dtype
            for weight in (conv.weight, gn.weight, gn.bias)
        )
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def apply_gates(x: Tensor, gate_h: Tensor, gate_w: Tensor, form: str) -> Tensor:
    """Return a map multiplied by its gates, by the plain formula.

    Shape:
        - x: ``(B, C, H, W)``
        - gate_h: ``(B, C, H)``
        - gate_w: ``(B, C, W)``
        - Output: ``(B, C, H, W)``
    """
    gate_h, gate_w = gate_h.to(x.dtype)[:, :, :, None], gate_w.to(x.dtype)[:, :, None, :]
    if form == "identity":
        return x * (2 * gate_h) * (2 * gate_w)
    if form == "residual":
        return x + x * gate_h * gate_w
    return x * gate_h * gate_w


def scale_by_gates(x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> Tensor:
    """Return the map multiplied by its gates, in few operators.

    For the backward it stores the map and strips, but no second tensor of the map's size.

    Args:
        x: The map, in the dtype of the weights.
        conv: The weight of the convolution.
        gamma: The weight of the norm.
        beta: The bias of the norm.
        form: The settings.

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
    return _scale(x, *_along_both(norms, form, x), form)


def _through_strips(
    x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form
) -> tuple[Tensor, tuple[_Norm, ...]]:
    """Return the sums of both strips with padding, ``(2B, C, L + 2 * padding)``, and the norms.

    L is the larger of H and W; the values after the end of the shorter strip have no meaning.
    """
    batch, _, height, width = x.shape
    pad = conv.shape[2] // 2
    along_h, along_w = _sum_along(x, 3), _sum_along(x, 2)
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
    """Return the convolution of padded strips."""
    if groups < conv.shape[0]:
        return torch.conv1d(padded, conv, groups=groups)
    taps = conv.unbind(2)  # (C, 1) each
    windows = padded.unfold(2, len(taps), 1).unbind(3)  # (2B, C, L) each
    total = windows[0] * taps[0]
    for window, tap in zip(windows[1:], taps[1:], strict=True):
        total.addcmul_(window, tap)
    return total


def _along_both(norms: tuple[_Norm, ...], form: Form, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gates that multiply the map ``x``, ``(B, C, H, 1)`` and ``(B, C, 1, W)``, in its memory format."""
    gates = [norm.gate for norm in norms] if form.gate != "identity" else [2 * norm.gate for norm in norms]
    along_h, along_w = gates if len(gates) == 2 else gates[0].chunk(2)
    return _laid_out_as(x, along_h.unsqueeze(3)), _laid_out_as(x, along_w.unsqueeze(2))


def _is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _laid_out_as(x: Tensor, strip: Tensor) -> Tensor:
    # PyTorch multiplies operands of different memory formats element by element.
    return strip.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else strip


def _sum_along(x: Tensor, dim: int) -> Tensor:
    """Return the sum of a map over its height (2) or width (3), ``(B, C, W)`` or ``(B, C, H)``."""
    if _is_channels_last(x):  # the sum itself gives strips with the channels first, and is 20 times as slow at that
        return x.permute(0, 2, 3, 1).sum(dim - 1).transpose(1, 2)
    return x.sum(dim)


def _scale(x: Tensor, gate_h: Tensor, gate_w: Tensor, form: Form) -> Tensor:
    scaled = x * gate_h
    return torch.addcmul(x, scaled, gate_w, out=scaled) if form.gate == "residual" else scaled.mul_(gate_w)


class _ScaleByGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: Tensor, gamma: Tensor, beta: Tensor, form: Form) -> Tensor:
        sums, norms = _through_strips(x, conv, gamma, beta, form)
        ctx.save_for_backward(x, conv, gamma, beta, sums, *chain.from_iterable(norms))
        ctx.form = form
        return _scale(x, *_along_both(norms, form, x), form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, conv, gamma, beta, sums, *saved = ctx.saved_tensors
        form = ctx.form
        # For second derivatives (create_graph=True), and for many gradients at once (is_grads_batched=True).
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad):
            return *_gradients_as_written(grad, (x, conv, gamma, beta), ctx.needs_input_grad[:4], form), None
        height, width = x.shape[2:]
        norms = tuple(_Norm(*saved[start : start + 4]) for start in range(0, len(saved), 4))
        gate_h, gate_w = _along_both(norms, form, x)

        # The only new copy of the map. With a batched matrix product for each gate, the product of x and grad would be
        # computed once and not twice, but that is slower.
        buffer = x * grad
        grad_h = _sum_along(buffer.mul_(gate_w), 3)
        grad_w = _sum_along(torch.mul(x, grad, out=buffer).mul_(gate_h), 2)
        grad_gates = (torch.cat((grad_h, grad_w)),) if height == width else (grad_h, grad_w)
        if form.gate == "identity":
            for grad_gate in grad_gates:
                grad_gate.mul_(2)
        grad_sums, grad_conv, grad_gamma, grad_beta = _back_through_strips(sums, norms, grad_gates, conv, gamma, form)

        torch.mul(grad, gate_h, out=buffer)
        along_h, along_w = grad_sums.chunk(2)
        torch.addcmul(_laid_out_as(x, along_w[:, :, None, :width]), buffer, gate_w, out=buffer)
        buffer.add_(_laid_out_as(x, along_h[:, :, :height, None]))
        if form.gate == "residual":
            buffer.add_(grad)
        return buffer, grad_conv, grad_gamma, grad_beta, None


def _gradients_as_written(
    grad: Tensor, inputs: tuple[Tensor, ...], wanted: tuple[bool, ...], form: Form
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs by the plain formula, so that they can be differentiated again."""
    with torch.enable_grad():
        # Views, because an input may depend on another one: on the weights, if a block is called twice.
        x, conv, gamma, beta = views = [each.view_as(each) for each in inputs]

        def gate(strip: Tensor) -> Tensor:
            mixed = torch.conv1d(strip, conv, padding=conv.shape[2] // 2, groups=form.groups)
            return torch.group_norm(mixed, form.num_groups, gamma, beta, form.eps).sigmoid()

        scaled = apply_gates(x, gate(x.mean(3)), gate(x.mean(2)), form.gate)
    wanted_views = [view for view, is_wanted in zip(views, wanted, strict=True) if is_wanted]
    found = iter(torch.autograd.grad(scaled, wanted_views, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if is_wanted else None for is_wanted in wanted)


def _back_through_strips(
    sums: Tensor, norms: tuple[_Norm, ...], grad_gates: tuple[Tensor, ...], conv: Tensor, gamma: Tensor, form: Form
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the sums without padding, ``(2B, C, L)``, and of the three weights."""
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
