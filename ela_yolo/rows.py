"""A block's row of a model YAML, ``[from, repeats, ELA, args]``: what it may hold, and what to say if it is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ela_yolo.ela import ELA
from ela_yolo.errors import RowError, did_you_mean

OPTIONS = {  # what a row may give, everything but channels: name -> default
    name: parameter.default for name, parameter in list(inspect.signature(ELA).parameters.items())[1:]
}


@dataclass(frozen=True)
class BlockRow:
    """A row whose form is right; whether its options fit its channels is not known yet.

    Attributes:
        where: The row as errors name it.
        block: The block's name.
        source: The layer it reads, as in its ``from``.
        options: What the block takes after its channels, by position; for ELA variant and gate in full.
    """

    where: str
    block: str
    source: int
    options: Sequence[Any]


def read_block_row(layer: int, row: Sequence[Any]) -> BlockRow:
    """Read the row of a block that is layer number ``layer``.

    Raises:
        RowError: If it is not of the form ``[from, repeats, module, args]`` with known args.
    """
    block = row[2]
    where = f"{block} row {layer} [{', '.join('null' if item is None else str(item) for item in row)}]"
    if len(row) != 4:
        raise RowError(f"{where}: a row has four entries, [from, repeats, module, args], such as [-1, 1, {block}, []]")
    source, repeats, _, args = row
    if not isinstance(source, int) or isinstance(source, bool):
        raise RowError(f"{where}: {block} reads one layer, so its 'from' is one number such as -1 or 4, got {source!r}")
    if source >= layer or source < -max(layer, 1):
        raise RowError(f"{where}: 'from' {source} is not a layer before this one; use -1 or a number below {layer}")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise RowError(f"{where}: repeats must be a positive integer, got {repeats!r}")
    if block != ELA.__name__:
        if not isinstance(args, list):
            raise RowError(f"{where}: args must be a list such as [], got {args!r}")
        return BlockRow(where, block, source, args)
    options = _positional_options(where, args)
    # Variant and gate in full, so that the layer table names them.
    options = [default if option is None else option for option, default in zip(options, OPTIONS.values(), strict=True)]
    while options[-1] is None:
        options.pop()
    return BlockRow(where, block, source, options)


def refuse_unread(rows: Sequence[Any], blocks: Collection[int]) -> None:
    """Refuse rows of blocks that no later row reads: a number that should point to them was not raised.

    Args:
        rows: All rows of the model.
        blocks: The layers that are blocks; the last layer of all needs no reader.

    Raises:
        RowError: For the first such row.
    """
    if not blocks:  # then what the rows hold is the host's affair
        return
    sources = [row[0] if isinstance(row[0], list) else [row[0]] for row in rows]
    read = {layer + s if s < 0 else s for layer, row in enumerate(sources) for s in row if isinstance(s, int)}
    for layer in blocks:
        if layer not in read and layer < len(rows) - 1:
            raise RowError(
                f"{rows[layer][2]} row {layer} is read by no layer; raise the numbers of the rows that should read it, "
                f"such as Detect's, to {layer}"
            )


def _positional_options(where: str, args: Any) -> list[Any]:
    allowed = f"allowed, in this order or named in one mapping: {', '.join(OPTIONS)}"
    if not isinstance(args, list):
        raise RowError(f"{where}: args must be a list such as [] or [S, identity], got {args!r}")
    if any(isinstance(arg, dict) for arg in args):
        if len(args) > 1:
            raise RowError(f"{where}: give the args by position or in one mapping, not both; {allowed}")
        for key in args[0]:
            if key not in OPTIONS:
                raise RowError(f"{where}: unknown key {key!r}{did_you_mean(str(key), OPTIONS) or ';'} {allowed}")
        return [args[0].get(option) for option in OPTIONS]
    if len(args) > len(OPTIONS):
        raise RowError(f"{where}: {len(args)} args; {allowed}")
    return [*args, *[None] * (len(OPTIONS) - len(args))]
