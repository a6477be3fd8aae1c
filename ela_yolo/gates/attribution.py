"""Traces a detection back through the gates: which places of an image raise or lower its score through attention.

Integrated gradients (Sundararajan, Taly and Yan, arXiv:1703.01365) through the gates only. A block computes
``x * g_h(u) * g_w(u)`` with ``u = x``. The factor ``x`` is held fixed, and ``u`` goes on a straight line from the mean
of ``x`` over the map (blank strips) to ``x``. The gradient of the detection's logit with respect to ``u``, integrated
along the line and multiplied by the difference of both ends, is the map. Its sum over all places equals the change of
the logit between blank strips and ``x``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ela_yolo.ela import ELA
from ela_yolo.host.detector import Detector

STEPS = 20  # points of the integral; the sum of a map is then exact to 0.5%


@dataclass(frozen=True)
class Trace:
    """What a block's attention does to the score of one detection.

    Attributes:
        blank: The score with blank strips, that is, without this block's attention.
        change: The logit minus the logit with blank strips.
        places: What each place of the block's input adds to the logit through attention, ``(H, W)``; the sum is
            ``change``, up to the error of the integral.
    """

    blank: float
    change: float
    places: np.ndarray[Any, Any]


def trace(
    detector: Detector, blocks: Mapping[str, ELA], image: Tensor, found: Sequence[tuple[int, float, float, float]]
) -> list[dict[str, Trace]]:
    """Trace detections of one image through each block.

    Args:
        detector: The network that detected them.
        blocks: Layer -> block of this network.
        image: The input of the network.
        found: The class, the score, and the center, as shares of the input's width and height, of each detection.

    Shape:
        - image: ``(1, channels, H, W)``

    Returns:
        For each detection, layer -> trace. A detection that the network does not give for this input has none.
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs: dict[str, Tensor] = {}
        handles = [block.register_forward_pre_hook(_keeper(inputs, layer)) for layer, block in blocks.items()]
        try:
            with torch.no_grad():
                outputs = detector.run(image.clone())
                logits = detector.logits(outputs)
        finally:
            for handle in handles:
                handle.remove()
        targets = [_place_of(logits, detector.places(outputs), each) for each in found]
        known = [(label, place) for (label, *_), place in zip(found, targets, strict=True) if place is not None]
        by_layer = {
            layer: _trace_block(detector, layer, block, inputs[layer], outputs, logits, known)
            for layer, block in blocks.items()
            if known
        }
    traces = [{layer: each[number] for layer, each in by_layer.items()} for number in range(len(known))]
    following = iter(traces)
    return [{} if place is None else next(following) for place in targets]


def _keeper(inputs: dict[str, Tensor], layer: str) -> Any:
    def keep(_: Any, given: tuple[Tensor, ...]) -> None:
        inputs[layer] = given[0].detach()

    return keep


def _place_of(logits: Tensor, centers: Tensor | None, found: tuple[int, float, float, float]) -> int | None:
    """Return the place that gave a detection; None if no place has its score."""
    label, score, x, y = found
    off = (_scores(logits)[label] - score).abs()
    if centers is not None:  # of several places with the same score, the one in the middle of the object
        off = off + 1e-3 * (centers.to(off) - off.new_tensor([x, y])).norm(dim=1)
    place = int(off.argmin())
    return place if off[place] < 5e-3 else None


def _scores(logits: Tensor) -> Tensor:
    """Return the scores of logits; a classifier judges one place, and its classes exclude each other."""
    return logits.softmax(0) if logits.shape[1] == 1 else logits.sigmoid()


def _points() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return places from 0 to 1 and their weights for an integral, by Gauss and Legendre.

    They lie densely near 0: the norm scales faint strips up, so the gates change the most where the strips are almost
    blank. The line is parametrized by the square of the places for that.
    """
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    places = (points + 1) / 2
    return places**2, weights * places


def _trace_block(
    detector: Detector,
    layer: str,
    block: ELA,
    x: Tensor,
    outputs: list[Any],
    logits: Tensor,
    targets: Sequence[tuple[int, int]],
) -> list[Trace]:
    start = int(layer.partition(".")[0])
    strips = x.mean(3), x.mean(2)  # (1, C, H) and (1, C, W)
    mean = x.mean((2, 3), keepdim=True)
    blank = tuple(mean[..., 0].expand_as(strip) for strip in strips)

    def logits_of(strip_h: Tensor, strip_w: Tensor) -> Tensor:
        scaled = block.scale(x, block.gate_of(strip_h), block.gate_of(strip_w))
        handle = block.register_forward_hook(lambda *_: scaled)
        try:
            return detector.logits(outputs, start)
        finally:
            handle.remove()

    with torch.no_grad():
        blank_logits = logits_of(*blank)
    sums = [[torch.zeros_like(strip) for strip in strips] for _ in targets]
    for point, weight in zip(*_points(), strict=True):
        path = [(b + point * (s - b)).requires_grad_() for s, b in zip(strips, blank, strict=True)]
        at_point = logits_of(*path)
        for (label, place), of_target in zip(targets, sums, strict=True):
            for total, gradient in zip(
                of_target, torch.autograd.grad(at_point[label, place], path, retain_graph=True), strict=True
            ):
                total += weight * gradient
    height, width = x.shape[2:]
    traces = []
    for (label, place), (along_h, along_w) in zip(targets, sums, strict=True):
        # A strip is a mean, so each place of the map has a share of the strip's gradient.
        places = ((x - mean) * (along_h[..., None] / width + along_w[..., None, :] / height)).sum(1)[0]
        change = float(logits[label, place] - blank_logits[label, place])
        traces.append(Trace(float(_scores(blank_logits)[label, place]), change, places.float().cpu().numpy()))
    return traces
