"""Whether the ELA blocks of a model do anything, over many images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ela_yolo.ela import ELA
from ela_yolo.gates.capture import gates_of, listen
from ela_yolo.util.tables import markdown_table

# A gate that varies by less has a standard deviation of at most 1% of a sigmoid's middle, 0.5. What is left is one
# factor per channel, which the next convolution's weights can hold as well.
ALIKE = 0.005
LOW, HIGH = 0.05, 0.95  # beyond these a sigmoid's slope, and with it the gradient, is below a fifth of its largest


@dataclass(frozen=True)
class GateHealth:
    """What the gates of one block did to the images that were seen.

    Attributes:
        layer: The block's layer, as ``"3"``.
        block: Variant and gate form, such as ``ELA-B paper``.
        mean: Of the sigmoids, 0 to 1.
        spread: Standard deviation of a gate across its positions, as the mean over channels, images and both gates.
        saturated: Share of the sigmoids below 0.05 or above 0.95.
        scale: Root mean square of the block's output to that of its input.
    """

    layer: str
    block: str
    mean: float
    spread: float
    saturated: float
    scale: float

    @property
    def verdict(self) -> str:
        """Whether the block does anything, in words.

        ``alive`` says that the gates vary, not that they have learned to: those of a fresh block in the ``paper`` or
        ``residual`` form vary as much.
        """
        if not math.isfinite(self.mean):
            return "not finite: the training diverged"
        if self.saturated > 0.5:
            return "saturated"
        if self.spread < ALIKE:
            return "looks everywhere alike: does nothing"
        return "alive"


@dataclass(frozen=True)
class GateReport:
    """The gates of a model over many images; printed, it is a Markdown table.

    Attributes:
        blocks: One for each ELA block.
        images: How many images the model got.
    """

    blocks: tuple[GateHealth, ...]
    images: int

    def __str__(self) -> str:
        head = ["layer", "block", "gate mean", "spread", "saturated", "scale", "verdict"]
        rows = [
            [
                each.layer,
                each.block,
                f"{each.mean:.3f}",
                f"{each.spread:.4f}",
                f"{each.saturated:.1%}",
                f"{each.scale:.3f}",
                each.verdict,
            ]
            for each in self.blocks
        ]
        return f"{markdown_table(head, rows)}\n\nover {self.images} images"


class HealthMeter:
    """Gathers, as a context manager around forwards of a model, what its ELA blocks do.

    It computes with strips, but for the root mean square of a block's input and output. Every forward counts, those
    of training too.

    Args:
        model: A model, or what :func:`named_blocks` takes. Ultralytics predicts with a copy: ``model.predictor.model``.

    Example:
        >>> block = ELA(16, gate="identity")
        >>> with HealthMeter(block) as meter:
        ...     _ = block(torch.randn(2, 16, 8, 8))
        >>> meter.result()[0].verdict
        'looks everywhere alike: does nothing'
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._blocks: dict[str, str] = {}
        self._images: dict[str, int] = {}
        self._sums: dict[str, list[float]] = {}

    def __enter__(self) -> HealthMeter:
        self._handles = listen(self._model, self._update)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def images(self) -> int:
        """How many images went through the blocks."""
        return max(self._images.values(), default=0)

    def result(self) -> tuple[GateHealth, ...]:
        """Return what was gathered so far, a block each, in the order in which they ran."""
        return tuple(self._health(layer) for layer in self._blocks)

    def _health(self, layer: str) -> GateHealth:
        *of_gates, squares_in, squares_out = self._sums[layer]
        mean, spread, saturated = (total / self._images[layer] for total in of_gates)
        scale = math.sqrt(squares_out / squares_in) if squares_in else math.nan
        return GateHealth(layer, self._blocks[layer], mean, spread, saturated, scale)

    def _update(self, layer: str, block: ELA, x: Tensor, output: Tensor) -> None:
        gates = gates_of(block, x)
        sigmoids = [gate.float() for gate in gates.sigmoids()]
        of_images = [  # the mean of both gates, (B,) each
            torch.stack([statistic(gate) for gate in sigmoids]).mean(0) for statistic in (_mean, _spread, _saturated)
        ]
        squares = [_sum_of_squares(each) for each in (x, output)]
        sums = torch.stack([*(each.sum() for each in of_images), *squares]).tolist()  # the one wait for a GPU
        former = self._sums.get(layer, [0.0] * len(sums))
        self._blocks[layer] = gates.block
        self._images[layer] = self._images.get(layer, 0) + x.shape[0]
        self._sums[layer] = [before + now for before, now in zip(former, sums, strict=True)]


def _mean(gate: Tensor) -> Tensor:
    return gate.mean((1, 2))


def _spread(gate: Tensor) -> Tensor:
    return gate.std(2, correction=0).mean(1)


def _saturated(gate: Tensor) -> Tensor:
    return ((gate < LOW) | (gate > HIGH)).float().mean((1, 2))


def _sum_of_squares(x: Tensor) -> Tensor:
    # Image by image, since in a dtype that is not the map's this is computed from a copy on some devices.
    return torch.stack([torch.linalg.vector_norm(image, dtype=torch.float32) for image in x]).square().sum()
