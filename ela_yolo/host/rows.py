"""Reads a block's row of a model YAML, ``[from, repeats, ELA, args]``, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ela_yolo.ela import ELA, check_lr_mult, resolve_settings
from ela_yolo.errors import RowError
from ela_yolo.host.blocks import find_block
from ela_yolo.host.row_args import BY_THEMSELVES, by_position, options_of, read_args, refuse_width, start_options
from ela_yolo.identity_start import IdentityStart
from ela_yolo.util.text import short


@dataclass(frozen=True)
class BlockRow:
    """The row of a block, whose form is right. Its options are checked once its channels are known.

    Attributes:
        where: The row as errors name it.
        block: The name of the block.
        source: The layer that the row reads, as in its ``from``.
        args: The args as they are written.
        module: The module that the parser builds: the block, or ``IdentityStart`` around it.
        options: The arguments of this module after its channels, by position; for ELA with variant and gate.
        width: The width in the row of the layer that this row reads, before the model's scale applies; None if that
            row has no width.
    """

    where: str
    block: str
    source: int
    args: Sequence[Any]
    module: str
    options: Sequence[Any]
    width: int | None = None

    def check(self, channels: int) -> None:
        """Check that the block takes the options at this number of channels."""
        if self.block == ELA.__name__:
            try:
                resolve_settings(channels, *self.options)
            except ValueError as error:
                raise RowError(f"{self.where}: {error}; {BY_THEMSELVES}") from None
        else:
            refuse_width(self.where, find_block(self.block), self.args, (channels, self.width))


class RowArgs(list[Any]):
    """The args of a block's row for the parser; the first of them becomes the channels of the layer that the row reads.

    The parser replaces the string ``"ch"`` by a list, the output channels of all layers so far. This class stores only
    the entry of the layer that the row reads. So the block gets a plain number, and the layer table shows it.
    """

    def __init__(self, row: BlockRow) -> None:
        super().__init__(["ch", *row.options])
        self.row = row

    def __setitem__(self, index: Any, channels_so_far: Any) -> None:
        if index != 0:  # the parser also replaces options named like its local variables
            return
        channels = channels_so_far[self.row.source]
        self.row.check(channels)
        super().__setitem__(index, channels)

    def __repr__(self) -> str:
        """Return the args as the layer table shows them, with a class by its name."""
        return f"[{', '.join(each.__name__ if isinstance(each, type) else repr(each) for each in self)}]"


def read_block_row(layer: int, rows: Sequence[Any]) -> BlockRow:
    """Return the row of a block, which is layer number ``layer``."""
    row = rows[layer]
    name = row[2]
    where = f"{name} row {layer} [{', '.join('null' if item is None else short(item) for item in row)}]"
    if len(row) != 4:
        raise RowError(f"{where}: a row has four entries, [from, repeats, module, args], such as [-1, 1, {name}, []]")
    source, repeats, _, args = row
    if not isinstance(source, int) or isinstance(source, bool):
        raise RowError(f"{where}: {name} reads one layer, so its 'from' is one number such as -1 or 4, got {source!r}")
    if source >= layer or source < -max(layer, 1):
        raise RowError(f"{where}: 'from' {source} is not a layer before this one; use -1 or a number below {layer}")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise RowError(f"{where}: repeats must be a positive integer, got {repeats!r}")
    block = find_block(name)
    args, start = _split_start(where, block, args)
    given = read_args(where, block, args)
    module = name
    if name == ELA.__name__:  # variant and gate in full, so that the layer table names them
        options = [given[key] if given.get(key) is not None else default for key, default in options_of(ELA).items()]
        while options[-1] is None:
            options.pop()
    else:
        options = by_position(block, given)
    if start.get("identity"):
        module, options = IdentityStart.__name__, [block, start.get("lr_mult"), *options]
    width = _written_width(rows[source + layer if source < 0 else source]) if layer else None
    return BlockRow(where, name, source, args, module, options, width)


def _split_start(where: str, block: type[nn.Module], args: Any) -> tuple[Any, dict[str, Any]]:
    """Return the args of a row without the options of ``IdentityStart``, and these options.

    A block that has an option of the same name gets it itself.
    """
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], dict):
        return args, {}
    start = {key: args[0][key] for key in start_options(block) if key in args[0]}
    rest = {key: value for key, value in args[0].items() if key not in start}
    if not isinstance(start.get("identity", False), bool):
        raise RowError(f"{where}: identity must be true or false, got {start['identity']!r}")
    if start.get("lr_mult") is not None:
        if not start.get("identity"):
            raise RowError(f"{where}: lr_mult is for a block that starts as an identity; add identity: true")
        try:
            check_lr_mult(start["lr_mult"])
        except ValueError as error:
            raise RowError(f"{where}: {error}") from None
    return [rest] if rest else [], start


def refuse_unread(rows: Sequence[Any], blocks: Collection[int]) -> None:
    """Raise an error if no later row reads a block: then the layer numbers after the block were not raised.

    Args:
        rows: All rows of the model.
        blocks: The layers that are blocks; the last layer of the model needs no reader.
    """
    if not blocks:  # then Ultralytics alone checks the rows
        return
    sources = [row[0] if isinstance(row[0], list) else [row[0]] for row in rows]
    read = {layer + s if s < 0 else s for layer, row in enumerate(sources) for s in row if isinstance(s, int)}
    for layer in blocks:
        if layer not in read and layer < len(rows) - 1:
            raise RowError(
                f"{rows[layer][2]} row {layer} is read by no layer; change the number in the rows that should read it, "
                f"such as Detect, to {layer}"
            )


def _written_width(row: Sequence[Any]) -> int | None:
    args = row[3] if len(row) == 4 else None
    return args[0] if isinstance(args, list) and args and type(args[0]) is int else None
