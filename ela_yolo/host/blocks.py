"""The blocks that rows may name beside Ultralytics' own modules: ELA, some of timm's, and the user's.

Each block has a name and the path of its class, such as ``CA`` and ``timm.layers.coord_attn:CoordAttn``. An environment
variable holds the blocks of the user, so that child processes know them too.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import nn

from ela_yolo.ela import ELA, ZeroGroupNorm
from ela_yolo.errors import InputError, RowError
from ela_yolo.host.unknown_modules import block_in, row_hint
from ela_yolo.identity_start import IdentityStart
from ela_yolo.util.installer import installer
from ela_yolo.util.text import one_line

ENVIRONMENT = "ELA_YOLO_BLOCKS"  # NAME=module:Class, with commas between them
_ENTRY = re.compile(r"([^\W\d]\w*)\s*=\s*([\w.]+:[\w.]+)")
_OWN = {"ELA": "ela_yolo.ela:ELA", "ChannelScale": "ela_yolo.channel_scale:ChannelScale"}
_TIMM = {
    "CA": "timm.layers.coord_attn:CoordAttn",
    "CBAM": "timm.layers.cbam:CbamModule",
    "ECA": "timm.layers.eca:EcaModule",
    "SE": "timm.layers.squeeze_excite:SEModule",
}


def register_block(name: str, block: type[nn.Module]) -> None:
    """Register a block under a name that the rows of a model YAML may use, in this process and its child processes.

    Rows of the block then get their channels as rows of ELA do, ``insert`` and ``remove`` know the block, and
    weights are matched with it left out of the count. To register it in every process, also for the command ``yolo``,
    set the environment variable ``ELA_YOLO_BLOCKS`` to ``NAME=module:Class``.

    Args:
        name: The name in the rows, such as ``Mine`` in ``[-1, 1, Mine, []]``.
        block: A class of ``torch.nn.Module``. Its first argument is the number of channels; the args of a row follow.
            Its output has the shape of its input, ``(B, C, H, W)``. Child processes import it, so it must be defined
            in the file of a module, not in ``__main__``.

    Raises:
        InputError: If the name is taken, or the class is not such a block.

    Examples:
        >>> from timm.layers import SEModule
        >>> register_block("Squeeze", SEModule)
        >>> os.environ.pop("ELA_YOLO_BLOCKS")  # child processes find the block here; after this, no process does
        'Squeeze=timm.layers.squeeze_excite:SEModule'
    """
    path = _path(block)
    if not name.isidentifier():
        raise InputError(f"the name of a block must be one word of letters and digits, got {name!r}")
    if known_blocks().get(name, path) != path:
        raise InputError(f"{name} is already the name of {known_blocks()[name]}; choose another one")
    if not _is_module(block):
        raise InputError(f"{name}: a block must be a subclass of torch.nn.Module, not {block!r}")
    if block.__module__ == "__main__" or _import(path)[0] is not block:
        raise InputError(f"{name}: other processes import the block, so define {block.__qualname__} in a module")
    from ultralytics.nn import tasks

    if getattr(tasks, name, block) is not block:
        raise InputError(f"Ultralytics already has a module {name}; choose another name for {block.__qualname__}")
    given = {**user_blocks(), name: path}
    os.environ[ENVIRONMENT] = ",".join(f"{word}={place}" for word, place in given.items() if word not in _built_in())


def known_blocks() -> dict[str, str]:
    """Return the blocks that rows may name: name -> ``module:Class``."""
    return {**user_blocks(), **_built_in()}


def is_block_name(module: object) -> bool:
    """Return whether the module of a row is a known block, and not another class that Ultralytics has by this name."""
    return isinstance(module, str) and module in known_blocks() and foreign_class(module) is None


def foreign_class(name: str) -> Any:
    """Return the other class that Ultralytics' parser has under the name of a block; None if it has none."""
    path = known_blocks()[name]
    found = getattr(sys.modules.get("ultralytics.nn.tasks"), name, None)
    return None if found is None or _path(found) == path or _import(path)[0] is found else found


def find_block(name: str) -> type[nn.Module]:
    """Return the class of a block."""
    path = known_blocks()[name]
    found, reason = _import(path)
    if found is None:
        remedy = installer("install", "timm") if name in _TIMM else f"correct {ENVIRONMENT}, or install what has it"
        raise RowError(f"{name} is {path}, which cannot be imported ({reason}); {remedy}")
    if not _is_module(found):
        raise RowError(f"{name} is {path}, which is not a subclass of torch.nn.Module; correct {ENVIRONMENT}")
    return found


def safe_classes() -> list[type[nn.Module]]:
    """Return the classes that PyTorch may load from a checkpoint where ``ULTRALYTICS_SAFE_LOAD`` restricts it.

    These are the blocks of this package, and with that variable also the user's blocks and the modules of timm.
    """
    from ultralytics import utils

    classes: list[type[nn.Module]] = [ZeroGroupNorm, IdentityStart, *map(find_block, _OWN)]
    if getattr(utils, "SAFE_LOAD", False):
        classes += [block for path in user_blocks().values() if _is_module(block := _import(path)[0])]
        if importlib.util.find_spec("timm"):
            for path in _TIMM.values():
                _import(path)
            layers = [module for name, module in [*sys.modules.items()] if name.startswith("timm.layers.")]
            classes += [value for module in layers for value in vars(module).values() if _is_module(value)]
    return classes


def check_block(name: str) -> None:
    """Check that a block of this name can be inserted into a model."""
    if name not in known_blocks():
        meant = block_in(name, known_blocks())
        near = f", did you mean '{meant}'?" if meant else f"; there are {', '.join(known_blocks())}"
        raise InputError(f"there is no block {name}{near}; to use your own block, call ela_yolo.register_block")
    if not is_block_name(name):
        raise InputError(
            f"Ultralytics already has a module {name}, so rows cannot use this name for {known_blocks()[name]}"
        )
    find_block(name)


def pasted_row_hint(module: str, args: Sequence[int | None]) -> str:
    """Return what is wrong with a row of copied code, from which Ultralytics cannot build a model here; "" if nothing.

    Its module is unknown and has a block's name in it, or it is a row of ELA that begins with the channels.
    """
    from ultralytics.nn import tasks

    if not is_block_name(module) and not hasattr(tasks, module):
        return row_hint(module, known_blocks())
    if module == "ELA" and is_block_name(module) and any(args[:1]):
        return f"{args[0]} is not a variant of ELA; channels are inferred"
    return ""


def is_block(layer: nn.Module) -> bool:
    """Return whether a layer was built from the row of a block. With repeats above 1 it is a Sequential of blocks."""
    if isinstance(layer, nn.Sequential):
        return len(layer) > 0 and is_block(layer[0])
    return isinstance(layer, ELA | IdentityStart) or _path(type(layer)) in known_blocks().values()


def class_name(block: nn.Module) -> str:
    """Return the name of a block's class; of a block that starts as an identity, that of the block in it."""
    return type(block.block if isinstance(block, IdentityStart) else block).__name__


def ela_name(variant: str, gate: str) -> str:
    """Return the name of an ELA block in pictures and tables, such as ``ELA-B paper``."""
    return f"ELA-{variant} {gate}"


def describe(block: nn.Module) -> str:
    """Return the name of a block and its form, such as ``ELA-B paper``, ``CbamModule identity``, ``CbamModule``."""
    if isinstance(block, ELA):
        return ela_name(block.variant, block.gate)
    return class_name(block) + (" identity" if isinstance(block, IdentityStart) else "")


def _built_in() -> dict[str, str]:
    return {**_OWN, **_TIMM}


def user_blocks() -> dict[str, str]:
    """Return the blocks of the environment variable: name -> ``module:Class``."""
    return {entry[1]: entry[2] for entry in map(_ENTRY.fullmatch, _entries()) if entry}


def ignored_entries() -> list[str]:
    """Return the entries of the environment variable that are not ``NAME=module:Class``, or whose name is taken."""
    matched = [(entry, _ENTRY.fullmatch(entry)) for entry in _entries()]
    return [entry for entry, found in matched if found is None or _built_in().get(found[1], found[2]) != found[2]]


def _entries() -> list[str]:
    return [entry.strip() for entry in os.environ.get(ENVIRONMENT, "").split(",") if entry.strip()]


def _path(block: Any) -> str:
    return f"{getattr(block, '__module__', '')}:{getattr(block, '__qualname__', '')}"


def _import(path: str) -> tuple[Any, str]:
    """Return the object at a path and "", or None and the reason why it cannot be imported."""
    try:
        return pkgutil.resolve_name(path), ""
    except Exception as error:  # an import runs the module's code, which may raise anything
        return None, f"{type(error).__name__}: {one_line(error)}"


def _is_module(value: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)
