"""The args of a block's row, by position or by name: their values, and hints about args of other implementations."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from ela_yolo.errors import RowError
from ela_yolo.util.text import did_you_mean, one_line, short

_WORDS_FOR_CHANNELS = re.compile(r"c1|c2|c_?in|c_?out|ch(\[.*\])?|inp|oup|channels?|(in|out)_(ch\w*|planes)")
_PYTHON = {"None": None, "True": True, "False": False}  # Ultralytics' parser takes them for null, true and false
_SHARES = ("rd_ratio", "se_factor")
_COUNTS = ("rd_channels", "rd_divisor")
_LARGEST_KERNEL = 63  # a larger number is meant as channels, not as a kernel or a divisor
_SMALLEST_WIDTH = 8  # of a layer


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


def read_args(where: str, name: str, block: type[nn.Module], args: Any) -> dict[str, Any]:
    """Return the options that a row gives to its block: option -> value, in the order of the block's arguments.

    A block with ``*args`` takes more values than it has options; their key is their position.

    Args:
        where: The row as errors name it.
        name: The name of the block in the row.
        block: Its class.
        args: The args of the row.

    Raises:
        RowError: If the args are not a list, the block has no such option, or they begin with the channels.
    """
    options = options_of(block)
    allowed = f"allowed, in this order or named in one mapping: {', '.join(options) or 'none'}"
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
        _refuse_channels(where, name, options, args)
        takes_more = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(block).parameters.values())
        if len(args) > len(options) and not takes_more:
            raise RowError(f"{where}: {f'{len(args)} args; {allowed}' if options else _by_themselves(name, '[]')}")
        keys = [*options, *map(str, range(len(options), len(args)))]
        given = dict(zip(keys, args, strict=False))
    _refuse_without_effect(where, name, options, given)
    return given


def by_position(block: type[nn.Module], given: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of a block after its channels, up to the last option that is given."""
    defaults = options_of(block)
    options = {**defaults, **given}
    while options and next(reversed(options)) not in given:
        options.popitem()
    return [defaults.get(option) if value is None else value for option, value in options.items()]


def check_args(where: str, block: type[nn.Module], given: Mapping[str, Any], channels: int) -> None:
    """Check that a block takes the options of its row at a number of channels.

    Args:
        where: The row as errors name it.
        block: The class of the block.
        given: Option -> value.
        channels: The channels of the layer that the row reads.

    Raises:
        RowError: If the block fails with them.
    """
    for option in _COUNTS:
        value = given.get(option)
        if value is not None and not (type(value) is int and 0 < value <= channels):
            raise RowError(f"{where}: {option} must be a number from 1 to the {channels} channels, got {value!r}")
    problem = try_block(block, channels, by_position(block, given)) if given else None
    if problem:
        raise RowError(f"{where}: {problem}; allowed: {', '.join(options_of(block)) or 'no args'}")


def refuse_width(
    where: str, name: str, block: type[nn.Module], args: Sequence[Any], widths: Collection[int | None]
) -> None:
    """Raise an error if the args begin with the channels of the layer that the row reads.

    Args:
        where: The row as errors name it.
        name: The name of the block in the row.
        block: Its class.
        args: The args of the row.
        widths: The channels of that layer, and the width in its row, to which the model's scale does not apply yet.

    Raises:
        RowError: If the first arg is one of the widths.
    """
    first = args[0] if args else None
    if type(first) is int and first >= _SMALLEST_WIDTH and first in widths:
        option = next(iter(options_of(block)), None)
        by_name = f"; if it is {option} that you mean, name it: [{{{option}: {first}}}]" if option else ""
        raise RowError(f"{where}: {_by_themselves(name, '[]')}{by_name}")


def try_block(block: type[nn.Module], channels: int, options: Sequence[Any] = ()) -> str | None:
    """Build a block, run it on a small map, and return what is wrong, or None. The random generator's state is kept."""
    called = f"{block.__qualname__}({', '.join(map(repr, (channels, *options)))})"
    x = torch.zeros(2, channels, 8, 6)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own build shows them
            made = block(channels, *options).eval()(x)
        shape = tuple(made.shape)
    except Exception as error:  # of the block's code
        return f"{called} fails on a map of {channels} channels: {type(error).__name__}: {one_line(error)}"
    return None if shape == x.shape else f"{called} makes {shape} of {tuple(x.shape)}; a block keeps the shape"


def _refuse_channels(where: str, name: str, options: Mapping[str, Any], args: Sequence[Any]) -> None:
    """Raise an error if the args begin with channels, as other implementations of a block need them."""
    if not args:
        return
    first, option = args[0], next(iter(options), None)
    number = isinstance(first, int | float) and not isinstance(first, bool)
    if isinstance(first, str) and _WORDS_FOR_CHANNELS.fullmatch(first):
        problem = ""
    elif number and option in _SHARES:
        if 0 < first <= 1:
            return
        problem = f"{option} must be above 0 and at most 1, got {first}; "
    elif number and name == "ELA":
        problem = ""
    elif number and name == "ECA":
        problem = f"{option} follows from the channels; "
    else:
        return
    raise RowError(f"{where}: {problem}{_by_themselves(name, _args_from_elsewhere(name, options, args))}")


def _by_themselves(name: str, args: str) -> str:
    return f"the channels come by themselves, so write {name}, {args}"


def _args_from_elsewhere(name: str, options: Mapping[str, Any], args: Sequence[Any]) -> str:
    """Return the args that replace those of another implementation: ``[{kernel_size: 7}]`` for ``[512, 7]``."""
    leading = [*takewhile(lambda arg: type(arg) in (int, float) or _is_word_for_channels(arg), args)]
    if len(leading) < len(args):
        return f"[{', '.join('null' if arg is None else str(arg) for arg in args[len(leading) :])}]"
    last = leading[-1]
    if type(last) is not int or not 1 < last <= _LARGEST_KERNEL or name == "ECA":
        return "[]"
    kernel = next((option for option in options if option.endswith("kernel_size")), None)
    if kernel and last % 2:
        ratios = [arg for arg in leading[1:-1] if arg > 1 and "rd_ratio" in options]
        return f"[{{{f'rd_ratio: {1 / ratios[0]:.4g}, ' if ratios else ''}{kernel}: {last}}}]"
    return f"[], or [{{rd_ratio: {1 / last:.4g}}}] to divide them by {last}" if "rd_ratio" in options else "[]"


def _is_word_for_channels(arg: Any) -> bool:
    return isinstance(arg, str) and bool(_WORDS_FOR_CHANNELS.fullmatch(arg))


def _refuse_without_effect(where: str, name: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise an error for shares above 1, and for options that timm's block would ignore."""
    for option in _SHARES:
        value = given.get(option)
        share = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        if option in options and value is not None and not share:
            raise RowError(f"{where}: {option} must be above 0 and at most 1, got {value!r}")
    idle = {}
    if given.get("rd_channels"):
        idle = dict.fromkeys(("rd_ratio", "rd_divisor", "se_factor"), "beside rd_channels")
    if name == "ECA":
        if not given.get("use_mlp"):
            idle = dict.fromkeys(("act_layer", *_COUNTS, "rd_ratio"), "without use_mlp: true")
        idle["kernel_size"] = "in a row, where it follows from the channels by gamma and beta"
    for option in given:
        if option in idle and given[option] is not None:
            raise RowError(f"{where}: {option} has no effect {idle[option]}; leave it out")
