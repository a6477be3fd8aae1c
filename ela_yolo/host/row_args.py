"""The args of a block's row, by position or in one mapping."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import nn

from ela_yolo.errors import RowError
from ela_yolo.util.text import did_you_mean, short

_PYTHON = {"None": None, "True": True, "False": False}  # Ultralytics' parser takes them for null, true and false
_SHARES = ("rd_ratio", "se_factor")  # options of timm's blocks; others write the divisor 16 for the share 1/16
_SMALLEST_WIDTH = 8  # of a layer
BY_THEMSELVES = "channels are inferred"


def options_of(block: type[nn.Module]) -> dict[str, Any]:
    """Return the options of a block, which a row may give: name -> default, in order, without the channels."""
    parameters = [*inspect.signature(block).parameters.values()][1:]
    named = takewhile(lambda p: p.name not in ("device", "dtype"), parameters)
    return {p.name: p.default for p in named if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}


def start_options(block: type[nn.Module]) -> tuple[str, ...]:
    """Return the options of ``IdentityStart`` that a row of the block may give.

    Blocks that start as identities on their own have none.
    """
    if hasattr(block, "gate_parameters"):
        return ()
    return tuple(option for option in ("identity", "lr_mult") if option not in options_of(block))


def read_args(where: str, block: type[nn.Module], args: Any) -> dict[str, Any]:
    """Return the options that a row gives to its block: option -> value, in the order of the block's arguments.

    A block with ``*args`` takes more values than it has options; their key is their position.
    """
    options = options_of(block)
    allowed = f"allowed, in this order or named in one mapping: {', '.join(options) or 'none'}; {BY_THEMSELVES}"
    if start_options(block):
        allowed += f"; named in a mapping also {' and '.join(start_options(block))}"
    if not isinstance(args, list):
        raise RowError(f"{where}: args must be a list such as [], got {short(args)}")
    args = [_PYTHON.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
    if any(isinstance(arg, dict) for arg in args):
        if len(args) > 1:
            raise RowError(f"{where}: give the args by position or in one mapping, not both; {allowed}")
        for key in args[0]:
            if key not in options:
                raise RowError(f"{where}: unknown key {key!r}{did_you_mean(str(key), options) or ';'} {allowed}")
        given = {option: args[0][option] for option in options if option in args[0]}
    else:
        takes_more = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(block).parameters.values())
        if len(args) > len(options) and not takes_more:
            raise RowError(f"{where}: {len(args)} args; {allowed}")
        keys = [*options, *map(str, range(len(options), len(args)))]
        given = dict(zip(keys, args, strict=False))
    for option in _SHARES:
        value = given.get(option) if option in options else None
        if value is not None and not (type(value) in (int, float) and 0 < value <= 1):
            raise RowError(f"{where}: {option} must be above 0 and at most 1, got {value!r}; {BY_THEMSELVES}")
    return given


def by_position(block: type[nn.Module], given: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of a block after its channels, up to the last option that is given."""
    defaults = options_of(block)
    options = {**defaults, **given}
    while options and next(reversed(options)) not in given:
        options.popitem()
    return [defaults.get(option) if value is None else value for option, value in options.items()]


def refuse_width(where: str, block: type[nn.Module], args: Sequence[Any], widths: Collection[int | None]) -> None:
    """Raise an error if the args begin with the channels of the layer that the row reads, as in other packages.

    Args:
        where: The row as errors name it.
        block: The class of the block.
        args: The args of the row.
        widths: The channels of that layer, and the width in its row, to which the model's scale does not apply yet.
    """
    first = args[0] if args else None
    if type(first) is int and first >= _SMALLEST_WIDTH and first in widths:
        option = next(iter(options_of(block)), None)
        by_name = f", or name the option: [{{{option}: {first}}}]" if option else ""
        raise RowError(f"{where}: {BY_THEMSELVES}, so leave {first} out{by_name}")
