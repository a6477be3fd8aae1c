"""Runs a model of Ultralytics again from one of its layers on, up to the logits of its classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ela_yolo.errors import InputError


class Detector:
    """A network of Ultralytics whose class logits can be computed from the outputs of its first layers.

    The logits are those before sigmoid or softmax and before NMS. They keep their places when the input changes: an
    end-to-end head has its own selection, which is left out, and RT-DETR keeps the queries that it selects for the
    image of ``run``.

    Args:
        network: The network that predicts, such as that of a predictor. It must be in evaluation mode.
    """

    def __init__(self, network: Any) -> None:
        self._layers: list[Any] = list(network.model)
        self._head: Any = self._layers[-1]
        self._logits: Callable[[list[Any]], Tensor] = _class_logits(self._head)
        self._image: Tensor | None = None

    def run(self, image: Tensor) -> list[Any]:
        """Return the output of each layer before the head.

        Shape:
            - image: ``(1, channels, H, W)``
        """
        if isinstance(self._logits, _Queries):
            self._logits.selected = None
        self._image = image
        return self._run([])

    def _run(self, outputs: list[Any]) -> list[Any]:
        outputs = [*outputs]
        for layer in self._layers[len(outputs) : -1]:
            outputs.append(layer(_inputs(layer, outputs, self._image)))
        return outputs

    def logits(self, outputs: list[Any], start: int | None = None) -> Tensor:
        """Return the class logits of the places that a head judges.

        Args:
            outputs: The output of each layer before the head.
            start: The layer from which on the network runs again, with the same outputs of the layers before it; None
                for the head alone.

        Shape:
            - Output: ``(classes, places)``
        """
        if start is not None:
            outputs = self._run(outputs[:start])
        features = _inputs(self._head, outputs, self._image)
        return self._logits(features if isinstance(features, list) else [features])[0]

    def places(self, outputs: list[Any]) -> Tensor | None:
        """Return the centers of the places, as shares of the input's width and height; None if they have none.

        Shape:
            - Output: ``(places, 2)`` of x and y
        """
        if not hasattr(self._head, "cv3"):
            return None
        centers = []
        for features in _inputs(self._head, outputs, self._image):
            height, width = features.shape[2:]
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centers.append(torch.stack([(x + 0.5) / width, (y + 0.5) / height], -1).flatten(0, 1))
        return torch.cat(centers)


def _inputs(layer: Any, outputs: list[Any], x: Any) -> Any:
    previous = outputs[-1] if outputs else x
    if isinstance(layer.f, int):
        return previous if layer.f == -1 else outputs[layer.f]
    return [previous if source == -1 else outputs[source] for source in layer.f]


def _class_logits(head: Any) -> Callable[[list[Any]], Tensor]:
    """Return the function that computes the class logits, ``(B, classes, places)``, of a head's inputs."""
    if hasattr(head, "dec_score_head"):
        return _Queries(head)
    if type(head).__name__ == "Classify":
        return lambda features: head.linear(head.pool(head.conv(torch.cat(features, 1))).flatten(1))[..., None]
    branches: Any = getattr(head, "cv3", None)
    if getattr(head, "end2end", False) and getattr(head, "one2one_cv3", None) is not None:
        branches = head.one2one_cv3
    # The branches of YOLO-World end in embeddings, not in classes.
    if branches is None or getattr(branches[0][-1], "out_channels", None) != head.nc:
        raise InputError(
            f"the head {type(head).__name__} has no class scores that can be traced; attention works for detect, "
            "segment, pose, OBB and classify models"
        )
    return lambda features: torch.cat(
        [branch(each).flatten(2) for branch, each in zip(branches, features, strict=True)], 2
    )


class _Queries:
    """The class logits of RT-DETR, with the queries that it selected first."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self.selected: Tensor | None = None

    def __call__(self, features: list[Any]) -> Tensor:
        # It selects by these scores. Anchors that were made in inference mode cannot be part of a backward pass.
        self._head.shapes = None
        handle = self._head.enc_score_head.register_forward_hook(self._keep)
        try:
            _, (_, scores, *_) = self._head(features)
        finally:
            handle.remove()
        logits: Tensor = scores[-1].transpose(1, 2)
        return logits

    def _keep(self, _: Any, __: Any, scores: Tensor) -> Tensor:
        if self.selected is None or self.selected.shape != scores.shape:
            self.selected = scores.detach()
        return self.selected
