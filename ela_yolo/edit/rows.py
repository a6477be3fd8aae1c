"""The rows of a model: what a model YAML, or the mapping in a checkpoint, says about each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ela_yolo.errors import ELAError

PARTS = ("backbone", "head")


@dataclass(frozen=True)
class Row:
    """One layer of the model.

    Attributes:
        layer: The layer number, counted over backbone and head.
        part: The list of the row, ``backbone`` or ``head``.
        module: The name in the third column.
        sources: The numbers in the first column, ``from``, as they are written.
        repeats: The number in the second column, before the model's depth applies; 1 if it is another value.
        args: The whole numbers of the fourth column in their places, and None for every other arg.
    """

    layer: int
    part: str
    module: str
    sources: tuple[int, ...]
    repeats: int
    args: tuple[int | None, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The numbers of the layers that the row reads; -1 is the image."""
        return tuple(source if source >= 0 else self.layer + source for source in self.sources)


def rows_of(config: Mapping[str, Any], where: Callable[[int], str], error: type[ELAError]) -> tuple[Row, ...]:
    """Return the rows of a model's mapping in the order of their layers.

    Args:
        config: The mapping, with a list of rows as ``backbone`` and as ``head``.
        where: Returns how a message begins that is about the row of a layer.
        error: The class of the error.
    """
    rows: list[Row] = []
    for part in PARTS:
        for written in config[part]:
            layer = len(rows)
            if not isinstance(written, list) or len(written) != 4 or not isinstance(written[2], str):
                raise error(f"{where(layer)} is not a row [from, repeats, module, args]")
            source, repeats, module, args = written
            sources = source if isinstance(source, list) else [source]
            for number in sources:
                if type(number) is not int:
                    raise error(f"{where(layer)} reads {number!r}, which is not a layer number")
                if not -max(layer, 1) <= number < layer:
                    before = f"layers 0 to {layer - 1} come" if layer else "the image comes (-1)"
                    raise error(f"{where(layer)} reads {number}, but only {before} before it")
            whole = tuple(arg if type(arg) is int else None for arg in args) if isinstance(args, list) else ()
            repeats = repeats if type(repeats) is int else 1
            rows.append(Row(layer, part, module, tuple(sources), repeats, whole))
    return tuple(rows)
