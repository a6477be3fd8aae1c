"""Plans insertions and removals: new numbers for the layers, and new sources for the rows that read them.

There are two maps, never one: the new number of layer i, and the layer that the readers of layer i read afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ela_yolo.edit.new_row import check_choice
from ela_yolo.edit.rows import Row
from ela_yolo.errors import InsertionError
from ela_yolo.host.blocks import is_block_name

_NO_FEATURE_MAP = {"CBLinear": "a list of feature maps", "ImagePoolingAttn": "text features"}


@dataclass(frozen=True)
class Plan:
    """The change of a model's rows.

    Attributes:
        blocks: The layer numbers of the blocks' rows: in the new model if they are inserted, in the old one if removed.
        layer_map: Old layer number -> new layer number, for every layer that is in both models.
        numbers: The sources that change, as (layer, place in its ``from``) of the old model -> their new values.
        stages: The stages that the blocks follow, in the old model: layer number -> module. Empty for a removal.
    """

    blocks: tuple[int, ...]
    layer_map: Mapping[int, int]
    numbers: Mapping[tuple[int, int], int]
    stages: Mapping[int, str] = field(default_factory=dict)


def plan_insertion(rows: Sequence[Row], name: str, stages: Collection[int], rewire: str = "all") -> Plan:
    """Plan the insertion of a block after each of the stages.

    Args:
        rows: The rows of the model.
        name: The name of the model in errors.
        stages: The layer numbers of the stages.
        rewire: ``all``: every reader of a stage reads the new block. ``next``: only the row after the stage does.
    """
    check_choice("rewire", rewire)
    chosen = frozenset(stages)
    for stage in sorted(chosen):
        if not 0 <= stage < len(rows):
            raise InsertionError(f"{name} has no layer {stage}, only 0 to {len(rows) - 1}")
        if reason := why_not_after(rows, stage, rewire):
            raise InsertionError(f"{name}: layer {stage} {rows[stage].module} {reason}; choose others with after=")

    def new_number(layer: int) -> int:
        return layer + sum(stage < layer for stage in chosen)

    def new_source(layer: int, reader: int) -> int:
        return new_number(layer) + (layer in chosen and (rewire == "all" or reader == layer + 1))

    return Plan(
        blocks=tuple(new_number(stage) + 1 for stage in sorted(chosen)),
        layer_map={row.layer: new_number(row.layer) for row in rows},
        numbers=_renumber(rows, new_number, new_source),
        stages={stage: rows[stage].module for stage in sorted(chosen)},
    )


def plan_removal(rows: Sequence[Row], name: str, layers: Collection[int] | None = None) -> Plan:
    """Plan the removal of blocks; the readers of a block then read its source, as before the block was inserted.

    Args:
        rows: The rows of the model.
        name: The name of the model in errors.
        layers: The layer numbers of the blocks to remove; None means all blocks.
    """
    blocks = tuple(row.layer for row in rows if is_block_name(row.module))
    if layers is not None and blocks:
        for layer in layers:
            if layer not in blocks:
                there = ", ".join(map(str, blocks))
                raise InsertionError(f"{name}: layer {layer} is not a block; layers= takes {there}")
        blocks = tuple(sorted({*layers}))
    several = [layer for layer in blocks if len(rows[layer].sources) != 1]
    if several:
        module = rows[several[0]].module
        raise InsertionError(f"{name}: layer {several[0]} {module} must read one layer; correct its 'from' first")
    if not blocks:
        raise InsertionError(f"{name} has no blocks to remove")

    def new_number(layer: int) -> int:
        return layer - sum(block < layer for block in blocks)

    def new_source(layer: int, reader: int) -> int:
        while layer in blocks:
            layer = rows[layer].reads[0]
        return new_number(layer)

    kept = [row for row in rows if row.layer not in blocks]
    if any(new_number(row.layer) and new_source(source, row.layer) < 0 for row in kept for source in row.reads):
        raise InsertionError(f"{name}: a block that reads the image is read by a later layer, so it cannot be removed")
    layer_map = {row.layer: new_number(row.layer) for row in kept}
    return Plan(blocks, layer_map, _renumber(kept, new_number, new_source))


def edit_mapping(
    config: Mapping[str, Any], rows: Sequence[Row], plan: Plan, row: Sequence[Any] | None
) -> dict[str, Any]:
    """Return a model's mapping after a change of its rows.

    Args:
        config: The mapping before the change.
        rows: Its rows.
        plan: The change.
        row: The row that is inserted after each stage of the plan; None if the plan removes rows.
    """
    edited: dict[str, Any] = {**config, "backbone": [], "head": []}
    for old, written in zip(rows, [*config["backbone"], *config["head"]], strict=True):
        if row is None and old.layer in plan.blocks:
            continue
        edited[old.part].append(renumbered(written, old, plan))
        if row is not None and old.layer in plan.stages:
            edited[old.part].append(deepcopy(list(row)))
    return edited


def renumbered(written: Sequence[Any], row: Row, plan: Plan) -> list[Any]:
    """Return a row of a mapping with the sources that it has after a change."""
    numbers = [plan.numbers.get((row.layer, place), number) for place, number in enumerate(row.sources)]
    return [numbers if isinstance(written[0], list) else numbers[0], *deepcopy(written[1:])]


def why_not_after(rows: Sequence[Row], stage: int, rewire: str = "all") -> str | None:
    """Return why no block can follow a stage, as in "layer 4 C2f ..."; None if one can."""
    module, readers = rows[stage].module, [row.layer for row in rows if stage in row.reads]
    behind = rows[stage + 1 : stage + 2]
    if not behind:
        return "is the head, and nothing reads it"
    if is_block_name(module):
        return "is a block itself"
    if module in _NO_FEATURE_MAP:
        return f"gives {_NO_FEATURE_MAP[module]}, and ELA needs one feature map"
    if is_block_name(behind[0].module) and behind[0].reads == (stage,):
        return f"is followed by its {behind[0].module} already (layer {stage + 1})"
    if not readers:
        return "is read by no layer, so a block after it would do nothing"
    if rewire == "next" and stage + 1 not in readers:
        return "is not read by the row after it, so rewire=next has no reader; use rewire=all"
    return None


def _renumber(
    rows: Iterable[Row], new_number: Callable[[int], int], new_source: Callable[[int, int], int]
) -> dict[tuple[int, int], int]:
    """Return the sources that change. A ``from`` stays -1, negative or counted from 0, as it was, where it can."""
    changes = {}
    for row in rows:
        for place, (written, layer) in enumerate(zip(row.sources, row.reads, strict=True)):
            source = new_source(layer, row.layer)
            back = source - new_number(row.layer)
            value = back if written < -1 or (written == -1 and back == -1) else source
            if value != written:
                changes[row.layer, place] = value
    return changes
