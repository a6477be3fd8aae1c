"""Plans insertions and removals: new numbers for the layers, and new sources for the rows that read them.

There are two maps, never one: the new number of layer i, and the layer that the readers of layer i read afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from ela_yolo.edit.yaml_text import Row, Span
from ela_yolo.ela import Gate, Variant, check_lr_mult
from ela_yolo.errors import InsertionError
from ela_yolo.host.blocks import find_block, is_block_name
from ela_yolo.host.row_args import options_of, start_options

CHOICES: Mapping[str, tuple[str, ...]] = {
    "where": ("backbone", "neck", "all"),
    "variant": get_args(Variant),
    "gate": get_args(Gate),
    "rewire": ("all", "next"),
}
_NO_FEATURE_MAP = {"CBLinear": "a list of feature maps", "ImagePoolingAttn": "text features"}


@dataclass(frozen=True)
class Plan:
    """The change of a model's rows.

    Attributes:
        blocks: The layer numbers of the blocks' rows: in the new model if they are inserted, in the old one if removed.
        layer_map: Old layer number -> new layer number, for every layer that is in both models.
        numbers: The numbers in the rows that change -> their new values.
        stages: The stages that the blocks follow, in the old model: layer number -> module. Empty for a removal.
    """

    blocks: tuple[int, ...]
    layer_map: Mapping[int, int]
    numbers: Mapping[Span, int]
    stages: Mapping[int, str] = field(default_factory=dict)


def plan_insertion(rows: Sequence[Row], name: str, stages: Collection[int], rewire: str = "all") -> Plan:
    """Plan the insertion of a block after each of the stages.

    Args:
        rows: The rows of the model.
        name: The name of the model in errors.
        stages: The layer numbers of the stages.
        rewire: ``all``: every reader of a stage reads the new block. ``next``: only the row after the stage does.

    Raises:
        InsertionError: If there is no such stage, no block can follow it, or a block follows it already.
    """
    check_choice("rewire", rewire)
    chosen = frozenset(stages)
    for stage in sorted(chosen):
        _check_stage(rows, name, stage, rewire)

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

    Raises:
        InsertionError: If there is no row of a block, a layer is not a block, or a later layer reads a block that reads
            the image.
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
        raise InsertionError(f"{name} has no ELA rows to remove")

    def new_number(layer: int) -> int:
        return layer - sum(block < layer for block in blocks)

    def new_source(layer: int, reader: int) -> int:
        while layer in blocks:
            layer = rows[layer].reads[0]
        return new_number(layer)

    kept = [row for row in rows if row.layer not in blocks]
    if any(new_number(row.layer) and new_source(source, row.layer) < 0 for row in kept for source in row.reads):
        raise InsertionError(
            f"{name}: an ELA row that reads the image is read by a later layer, so it cannot be removed"
        )
    layer_map = {row.layer: new_number(row.layer) for row in kept}
    return Plan(blocks, layer_map, _renumber(kept, new_number, new_source))


def row_args(
    variant: str | None = None, gate: str | None = None, lr_mult: float | None = None, block: str = "ELA"
) -> list[Any]:
    """Return the args of a block's row: ``[{"gate": "identity"}]``, ``[]`` for the paper's form.

    Args:
        variant: The variant of ELA; None means ``B``.
        gate: The gate form. None means ``identity``, for a block that starts as an identity on its own too. Blocks
            other than ELA have the forms ``identity`` and ``paper``, the block as it is.
        lr_mult: Multiple of the learning rate; None means 1.
        block: The module that the row names.

    Raises:
        InsertionError: If there is no such variant, gate form or multiple, or the block does not take it.
    """
    kind = find_block(block)
    starts = start_options(kind)
    options = (*options_of(kind), *starts)
    if variant and block != "ELA":
        raise InsertionError(f"variant is ELA's, and {block} has none; leave it out")
    gate = check_choice("gate", gate or "identity")
    if block != "ELA" and (gate == "residual" or (gate == "paper" and "identity" not in options)):
        raise InsertionError(f"gate={gate} is ELA's, and {block} does not have it; leave it out")
    if lr_mult is not None:
        if "lr_mult" not in options or (gate == "paper" and block != "ELA"):
            raise InsertionError(f"{block} takes no lr_mult{' with gate=paper' * (gate == 'paper')}; leave it out")
        try:
            check_lr_mult(lr_mult)
        except ValueError as error:
            raise InsertionError(str(error)) from None
    given: dict[str, object] = {}
    if block == "ELA":
        given = {"variant": check_choice("variant", variant or "B"), "gate": gate}
    elif "identity" in starts:
        given = {"identity": gate == "identity" or None}
    given["lr_mult"] = lr_mult
    written = {key: value for key, value in given.items() if value not in (None, "B", "paper")}
    return [written] if written else []


def check_choice(key: str, value: str) -> str:
    """Return the value of a key if it is one of the key's choices.

    Raises:
        InsertionError: If it is not.
    """
    if value not in CHOICES[key]:
        raise InsertionError(f"{key} must be one of {', '.join(CHOICES[key])}, got {value!r}")
    return value


def _check_stage(rows: Sequence[Row], name: str, stage: int, rewire: str) -> None:
    if not 0 <= stage < len(rows):
        raise InsertionError(f"{name} has no layer {stage}, only 0 to {len(rows) - 1}")
    module = rows[stage].module
    where = f"{name}: layer {stage} {module}"
    if stage == len(rows) - 1:
        raise InsertionError(f"{where} is the head, and nothing reads it; choose a layer before it")
    if is_block_name(module):
        raise InsertionError(f"{where} is a block itself; choose the layer that it reads, or another")
    if module in _NO_FEATURE_MAP:
        raise InsertionError(f"{where} gives {_NO_FEATURE_MAP[module]}, and ELA needs one feature map; choose another")
    behind = rows[stage + 1]
    if is_block_name(behind.module) and behind.reads == (stage,):
        already = f"is followed by its {behind.module} already (layer {stage + 1})"
        raise InsertionError(f"{where} {already}; choose others with after=")
    readers = [row.layer for row in rows if stage in row.reads]
    if not readers:
        raise InsertionError(f"{where} is read by no layer, so its ELA would do nothing; choose another")
    if rewire == "next" and stage + 1 not in readers:
        raise InsertionError(f"{where} is not read by the row after it, so rewire=next has no reader; use rewire=all")


def _renumber(
    rows: Iterable[Row], new_number: Callable[[int], int], new_source: Callable[[int, int], int]
) -> dict[Span, int]:
    """Return the numbers that change. A ``from`` stays -1, negative or counted from 0, as it was, where it can."""
    changes = {}
    for row in rows:
        for span, layer in zip(row.sources, row.reads, strict=True):
            source = new_source(layer, row.layer)
            back = source - new_number(row.layer)
            changes[span] = back if span.value < -1 or (span.value == -1 and back == -1) else source
        if row.number is not None:
            changes[row.number] = new_number(row.layer)
    return {span: value for span, value in changes.items() if value != span.value}
