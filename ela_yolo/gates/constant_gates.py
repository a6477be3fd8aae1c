"""Collects the mean factors by which blocks multiply their inputs, and holds blocks constant at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ela_yolo.ela import ELA
from ela_yolo.errors import NoFactorError
from ela_yolo.gates.capture import gates_of


class MeanFactors:
    """A context manager that collects the mean factor per channel by which each block multiplies its input.

    For ELA it is the product of both gates' means over images and positions, in the residual form 1 plus that. For
    another block it is the mean of output divided by input.

    Args:
        blocks: Layer -> block.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        self._blocks = blocks
        self._handles: list[Any] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._images: dict[str, int] = {}
        self._collects = False

    def collect(self) -> None:
        """Collect from now on: a warm-up of the device may have come before."""
        self._collects = True

    def __enter__(self) -> MeanFactors:
        for layer, block in self._blocks.items():
            self._handles.append(block.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def result(self) -> dict[str, Tensor]:
        """Return layer -> factor per channel, ``(C,)`` of float32.

        Raises:
            NoFactorError: If a block did not run.
        """
        factors = {}
        for layer in self._blocks:
            if layer not in self._sums:
                raise NoFactorError(f"layer {layer} does not run in this model; remove it first")
            sums = self._sums[layer]
            mean = torch.stack(sums).sum(0) / self._images[layer]
            block = self._blocks[layer]
            if isinstance(block, ELA):
                product = mean[0] * mean[1]
                factors[layer] = 1 + product if block.gate == "residual" else product
            else:
                factors[layer] = mean[0]
        return factors

    def _hook(self, layer: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not self._collects:
                return
            x = inputs[0]
            if layer not in self._sums and not isinstance(block, ELA):
                _check_factor(layer, block, x)
            with torch.no_grad():
                means = _gate_means(block, x) if isinstance(block, ELA) else _ratio_mean(x, output)[None]
            self._sums.setdefault(layer, []).append(means.sum(1).float())
            self._images[layer] = self._images.get(layer, 0) + len(x)

        return hook


def _gate_means(block: ELA, x: Tensor) -> Tensor:
    """Return the means of both gates over their positions, ``(2, B, C)``."""
    gates = gates_of(block, x)
    return torch.stack([gate.float().mean(2) for gate in (gates.along_h, gates.along_w)])


def _ratio_mean(x: Tensor, output: Tensor) -> Tensor:
    """Return the mean of output divided by input over the positions where the input is not 0, ``(B, C)``."""
    x, output = x.float(), output.float()
    counts = x.abs() > 1e-3 * x.abs().amax((1, 2, 3), keepdim=True)
    ratio = torch.where(counts, output / x.where(counts, torch.ones_like(x)), torch.zeros_like(x))
    return ratio.sum((2, 3)) / counts.sum((2, 3)).clamp(min=1)


def _check_factor(layer: str, block: nn.Module, x: Tensor) -> None:
    """Raise an error unless a block multiplies its input by factors: then its output is 0 wherever its input is 0."""
    with torch.no_grad():
        kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x) > 0.5
        output = block.forward(x * kept)
    if output[~kept].abs().max() > 1e-6 * output.abs().max():
        raise NoFactorError(
            f"layer {layer} {type(block).__name__} does not multiply its input by factors, so its attention cannot "
            "be held constant; remove the layer from a copy, and compare both with ela-yolo compare"
        )


@contextmanager
def held_constant(blocks: Mapping[str, nn.Module], factors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let blocks multiply each channel of their input by a constant factor, within a ``with`` block.

    Args:
        blocks: Layer -> block.
        factors: Layer -> factor per channel, ``(C,)``, of the blocks whose gates are held constant.
    """

    def constant(factor: Tensor) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _, inputs, output: inputs[0] * factor.to(output)[:, None, None]

    handles = [blocks[layer].register_forward_hook(constant(factor)) for layer, factor in factors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
