"""Measures over many images whether the ELA blocks of a model do anything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ela_yolo.ela import ELA
from ela_yolo.gates.capture import block_name, listen, strip_gates
from ela_yolo.gates.focus import Focus
from ela_yolo.util.json import write_json
from ela_yolo.util.tables import markdown_table

SCHEMA = 1
# A standard deviation of 1% of a sigmoid's middle, 0.5. A gate that varies by less is nearly one factor per channel,
# which the weights of the next convolution can hold as well.
ALIKE = 0.005

NOTHING = "looks everywhere alike: does nothing"
REMEDY = "gates that do nothing are usual after a short training; `ela-yolo insert lr_mult=100` lets them move faster"
LOW, HIGH = 0.05, 0.95  # outside, a sigmoid's slope, and so the gradient, is below a fifth of its largest


@dataclass(frozen=True)
class GateHealth:
    """Statistics of the gates of one block over images.

    Attributes:
        layer: The layer of the block, such as ``"3"``.
        block: The variant and the gate form, such as ``ELA-B paper``.
        mean: The mean of the sigmoids, from 0 to 1.
        spread: The standard deviation of a gate across its positions, as the mean over channels, images and both gates.
        saturated: The share of the sigmoids below 0.05 or above 0.95.
        scale: The root mean square of the block's output, divided by that of its input.
        focus: Whether the block favours objects; None without labelled boxes or masks.
    """

    layer: str
    block: str
    mean: float
    spread: float
    saturated: float
    scale: float
    focus: Focus | None = None

    @property
    def verdict(self) -> str:
        """Whether the block does anything, and if it does and there is a focus, what it favours.

        Without a focus it is ``alive`` if the gates vary. That does not mean that they have learned to: the gates of a
        new block in the ``paper`` or ``residual`` form vary as much.
        """
        if not math.isfinite(self.mean):
            return "not finite: the training diverged"
        if self.saturated > 0.5:
            return "saturated"
        if self.spread < ALIKE:
            return NOTHING
        return self.focus.verdict if self.focus else "alive"


@dataclass(frozen=True)
class GateReport:
    """Statistics of a model's gates over images; printed, it is a Markdown table, and a second one by size of objects.

    Attributes:
        blocks: The statistics of each ELA block.
        images: The number of images.

    Example:
        >>> print(GateReport((GateHealth("3", "ELA-B paper", 0.5, 0.001, 0, 0.25),), images=64))
        | layer | block | gate mean | spread | saturated | scale | focus (95%) | random gates | verdict |
        |---|---|---|---|---|---|---|---|---|
        | 3 | ELA-B paper | 0.500 | 0.0010 | 0.0% | 0.250 | - | - | looks everywhere alike: does nothing |
        <BLANKLINE>
        over 64 images
    """

    blocks: tuple[GateHealth, ...]
    images: int

    def __str__(self) -> str:
        head, *rows = self.table()
        told = f"{markdown_table(head, rows)}\n\nover {self.images} images"
        focused = [(each.layer, each.focus.sizes) for each in self.blocks if each.focus and each.focus.sizes]
        if not focused:
            return told
        sizes = [*focused[0][1]]
        by_size = [[layer, *(f"{found[size]:.2f}" for size in sizes)] for layer, found in focused]
        return f"{told}; focus by size of object:\n\n{markdown_table(['layer', *sizes], by_size)}"

    def table(self) -> list[list[str]]:
        """Return the rows of the table, the first of which is its head."""
        head = ["layer", "block", "gate mean", "spread", "saturated", "scale", "focus (95%)", "random gates", "verdict"]
        rows = [
            [
                each.layer,
                each.block,
                f"{each.mean:.3f}",
                f"{each.spread:.4f}",
                f"{each.saturated:.1%}",
                f"{each.scale:.3f}",
                *(each.focus.cells if each.focus else ("-", "-")),
                each.verdict,
            ]
            for each in self.blocks
        ]
        return [head, *rows]

    def save(self, file: str | Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: If the file cannot be written.
        """
        blocks = [{**asdict(each), "verdict": each.verdict} for each in self.blocks]
        write_json(Path(file), {"schema": SCHEMA, "images": self.images, "blocks": blocks})


class HealthMeter:
    """A context manager that collects statistics of a model's gates during its forwards, also those of a training.

    It costs little: apart from the root mean squares of a block's input and output, it computes with strips only.

    Args:
        model: A model with ELA, or a wrapper of Ultralytics or PyTorch around it, such as DDP. ``YOLO.predict`` runs a
            copy of the model, which is ``model.predictor.model``.

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
        """The number of images that went through the blocks."""
        return max(self._images.values(), default=0)

    def result(self) -> tuple[GateHealth, ...]:
        """Return the statistics so far, for each block, in the order in which the blocks ran."""
        return tuple(self._health(layer) for layer in self._blocks)

    def _health(self, layer: str) -> GateHealth:
        *of_gates, squares_in, squares_out = self._sums[layer]
        mean, spread, saturated = (total / self._images[layer] for total in of_gates)
        scale = math.sqrt(squares_out / squares_in) if squares_in else math.nan
        return GateHealth(layer, self._blocks[layer], mean, spread, saturated, scale)

    def _update(self, layer: str, block: ELA, x: Tensor, output: Tensor) -> None:
        doubled = 2 if block.gate == "identity" else 1
        sigmoids = [gate.float() / doubled for gate in strip_gates(block, x)]
        of_images = [  # the mean of both gates, (B,) each
            torch.stack([statistic(gate) for gate in sigmoids]).mean(0) for statistic in (_mean, _spread, _saturated)
        ]
        squares = [_sum_of_squares(each) for each in (x, output)]
        sums = torch.stack([*(each.sum() for each in of_images), *squares]).tolist()  # waits for a GPU only once
        former = self._sums.get(layer, [0.0] * len(sums))
        self._blocks[layer] = block_name(block.variant, block.gate)
        self._images[layer] = self._images.get(layer, 0) + x.shape[0]
        self._sums[layer] = [before + now for before, now in zip(former, sums, strict=True)]


def _mean(gate: Tensor) -> Tensor:
    return gate.mean((1, 2))


def _spread(gate: Tensor) -> Tensor:
    return gate.std(2, correction=0).mean(1)


def _saturated(gate: Tensor) -> Tensor:
    return ((gate < LOW) | (gate > HIGH)).float().mean((1, 2))


def _sum_of_squares(x: Tensor) -> Tensor:
    # Image by image: with another dtype than the map's, some devices first make a copy.
    return torch.stack([torch.linalg.vector_norm(image, dtype=torch.float32) for image in x]).square().sum()
