"""Measures whether the gates favour objects, beside the same measure with gates that are drawn at random.

The focus of a block on an image is the mean of its gain inside the objects, divided by the mean outside. Random gates
may favour objects too, because the map is larger there or the strips cross there. So each block is measured beside
copies of it with a new convolution, and with the weights and biases of its norm in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ela_yolo.ela import ELA
from ela_yolo.gates.capture import gain_map, listen, strip_gates
from ela_yolo.gates.placement import Array, Part
from ela_yolo.host.model_blocks import named_blocks

DRAWS = 19  # the chance that a block like the random ones is above all of them is 1 in 20
RESAMPLES = 2000
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # COCO's: below this area, in px of the image


@dataclass(frozen=True)
class Focus:
    """How much more a block amplifies the map inside objects than outside; 1 is alike.

    All means are geometric, over images.

    Attributes:
        value: The gain inside the objects, divided by the gain outside.
        low: The lower end of the 95% bootstrap interval over images.
        high: The upper end.
        control: The same with random gates, as the mean of several draws.
        control_low: The smallest of the draws.
        control_high: The largest.
        images: The number of images that have both objects and something outside them.
        sizes: Size of objects (COCO's small, medium, large) -> the gain inside those, divided by the gain outside all.
    """

    value: float
    low: float
    high: float
    control: float
    control_low: float
    control_high: float
    images: int
    sizes: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """Whether the gates favour objects: more than every draw, and with the interval beyond the mean of the draws.

        Example:
            >>> Focus(1.3, 1.25, 1.36, 1.08, 1.02, 1.12, 64, {}).verdict
            'favours objects (1.30, random gates 1.08)'
        """
        if self.value > self.control_high and self.low > self.control:
            said = "favours objects"
        elif self.value < self.control_low and self.high < self.control:
            said = "avoids objects"
        else:
            said = "no different from random gates"
        return f"{said} ({self.value:.2f}, random gates {self.control:.2f})"

    @property
    def cells(self) -> tuple[str, str]:
        """The cells of a table: the focus with its interval, and random gates with the range of the draws."""
        return (
            f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})",
            f"{self.control:.2f} ({self.control_low:.2f} to {self.control_high:.2f})",
        )


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        outlines: A polygon for each object, ``(N, 2)`` of x and y as shares of the image.
        image: Height and width of the image, in px.
    """

    outlines: Sequence[Array]
    image: tuple[int, int]

    def areas(self) -> list[float]:
        """Return the area of each object, in px of the image."""
        scale = np.array(self.image[::-1])
        return [cv2.contourArea((outline * scale).astype(np.float32)) for outline in self.outlines]


class FocusMeter:
    """A context manager that measures the focus of a model's blocks: after each forward, call :meth:`update`.

    Args:
        model: A model with ELA, or a wrapper of Ultralytics or PyTorch around it.
        draws: The number of random gates that each block is measured beside.

    Example:
        >>> from ela_yolo.gates.placement import WHOLE
        >>> objects = Objects([np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])], (64, 64))
        >>> block = ELA(16, gate="identity")
        >>> with FocusMeter(block) as meter:
        ...     _ = block(torch.randn(1, 16, 8, 8))
        ...     meter.update([objects], [WHOLE], (64, 64))
        >>> meter.result()[""].value  # a new block in the identity form multiplies by 1
        1.0
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        self._model = model
        self._draws = draws
        self._handles: list[RemovableHandle] = []
        self._random: dict[str, list[ELA]] = {}
        self._latest: dict[str, Tensor] = {}  # (B, 1 + draws, H, W)
        self._logs: dict[str, list[Array]] = {}  # of each image: the block's and each draw's
        self._sizes: dict[str, dict[str, list[float]]] = {}

    def __enter__(self) -> FocusMeter:
        # A seed of its own, so that a training goes on as without the measure.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._random = {
                layer: [_redrawn(block) for _ in range(self._draws)]
                for layer, block in named_blocks(self._model).items()
            }
        self._handles = listen(self._model, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hear(self, layer: str, block: ELA, x: Tensor, _: Tensor) -> None:
        gains = [gain_map(x, *strip_gates(each, x), each.gate) for each in (block, *self._random[layer])]
        self._latest[layer] = torch.stack(gains, 1)

    def update(self, objects: Sequence[Objects], parts: Sequence[tuple[Part, Part]], network: tuple[int, int]) -> None:
        """Take the measure of the latest forward.

        Args:
            objects: The objects of each image of the batch.
            parts: The parts of the network's input that each image covers, along height and width.
            network: Height and width of the network's input, in px.
        """
        for number, (of_image, covered) in enumerate(zip(objects, parts, strict=True)):
            seen = _drawn([np.array([[0, 0], [1, 0], [1, 1], [0, 1]])], covered, network)
            inside = _drawn(of_image.outlines, covered, network)
            by_size = {size: _drawn(outlines, covered, network) for size, outlines in _sorted_by_size(of_image).items()}
            for layer, latest in self._latest.items():
                gains = latest[number].cpu().numpy()
                outside = _cells(seen - inside, gains)
                logs = _log_ratio(gains, _cells(inside, gains), outside)
                if np.isfinite(logs).all():
                    self._logs.setdefault(layer, []).append(logs)
                for size, mask in by_size.items():
                    log = _log_ratio(gains[:1], _cells(mask, gains), outside)[0]
                    if np.isfinite(log):
                        self._sizes.setdefault(layer, {}).setdefault(size, []).append(log)

    def result(self) -> dict[str, Focus]:
        """Return layer -> focus, of the layers that saw an image with objects and something outside them."""
        return {layer: self._focus(layer) for layer in self._logs}

    def _focus(self, layer: str) -> Focus:
        logs = np.stack(self._logs[layer])  # (images, 1 + draws)
        own, draws = logs[:, 0], np.exp(logs[:, 1:].mean(0))
        picks = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
        low, high = np.exp(np.percentile(own[picks].mean(1), (2.5, 97.5)))
        sizes = self._sizes[layer]
        return Focus(
            value=float(np.exp(own.mean())),
            low=float(low),
            high=float(high),
            control=float(np.exp(logs[:, 1:].mean())),
            control_low=float(draws.min()),
            control_high=float(draws.max()),
            images=len(own),
            sizes={size: float(np.exp(np.mean(sizes[size]))) for size in SIZES if size in sizes},
        )


def _redrawn(block: ELA) -> ELA:
    """Return a copy of a block whose gates are random, with as large a norm as the block's."""
    copy = deepcopy(block)
    with torch.no_grad():
        nn.init.kaiming_uniform_(copy.conv.weight, a=5**0.5)  # as a new Conv1d
        order = torch.randperm(copy.gn.num_channels).to(copy.gn.weight.device)
        copy.gn.weight.copy_(block.gn.weight[order])
        copy.gn.bias.copy_(block.gn.bias[order])
    return copy


def _sorted_by_size(objects: Objects) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for outline, area in zip(objects.outlines, objects.areas(), strict=True):
        found.setdefault(next(size for size, limit in SIZES.items() if area < limit), []).append(outline)
    return found


def _drawn(outlines: Sequence[Array], covered: tuple[Part, Part], network: tuple[int, int]) -> Array:
    """Return which pixels of the network's input lie inside outlines, 1 or 0, by COCO's rules for polygons."""
    from faster_coco_eval.core import mask

    (top, height), (left, width) = ((part.start * n, part.length * n) for part, n in zip(covered, network, strict=True))
    polygons = [(outline * (width, height) + (left, top)).ravel().tolist() for outline in outlines]
    if not polygons:
        return np.zeros(network, np.float32)
    pixels: Array = mask.decode(mask.merge(mask.frPyObjects(polygons, *network)))
    return pixels.astype(np.float32)


def _cells(mask: Array, gains: Array) -> Array:
    """Return the share of each cell of a map that a mask covers."""
    shares: Array = cv2.resize(mask, gains.shape[:0:-1], interpolation=cv2.INTER_AREA)
    return shares


def _log_ratio(gains: Array, inside: Array, outside: Array) -> Array:
    """Return the log of the mean gain inside divided by that outside, for each gain map; NaN if either has no area."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [(gains * mask).sum((1, 2)) / mask.sum() for mask in (inside, outside)]
        logs: Array = np.log(means[0] / means[1])
    return logs
