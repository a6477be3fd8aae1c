"""Makes ELA known to Ultralytics: the only file that changes anything in it.

Four functions of Ultralytics are wrapped, also where its modules have imported them by name. Names, callbacks and safe
classes of ``torch.load`` are added:

- ``ultralytics.nn.tasks.parse_model``: the rows of blocks get the channels of the layer that they read, then the
  parser runs. If it does not know a module whose name resembles a block's, a hint is logged beside its error.
- ``ultralytics.nn.tasks.BaseModel.load``: the layers are matched with blocks left out of the count, then the weights
  are loaded.
- ``ultralytics.engine.trainer.BaseTrainer.build_optimizer``, once a model with blocks is built: the optimizer trains
  the gates at the multiple of the learning rate that their row names.
- ``ultralytics.utils.checks.check_file``: the bare name of a YAML of this package is found from any folder.
- ``ultralytics.nn.tasks.ELA``: the parser looks up the module of a row among the globals of its own module. Other
  blocks are added there when a row names one. If Ultralytics has another class under such a name, the class and its
  rows are left alone. ``IdentityStart``, beside it, builds the rows with ``identity: true``.
- ``ultralytics.utils.callbacks.base.default_callbacks``: an export of a model with ELA is prepared when it starts, the
  gates are recorded during a training run, a warning is logged if a trainer ignores their learning rate, and a
  distillation that would compare other layers is refused.

What this changes is probed first, the trainer when the first model with blocks is built. Other packages may wrap the
same functions too.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ela_yolo.ela import ELA
from ela_yolo.errors import RegistrationError
from ela_yolo.host.blocks import (
    ENVIRONMENT,
    find_block,
    foreign_class,
    ignored_entries,
    is_block,
    is_block_name,
    known_blocks,
    safe_classes,
)
from ela_yolo.host.learning_rate import with_own_rates
from ela_yolo.host.probes import refuse_changed, refuse_changed_trainer
from ela_yolo.host.rows import RowArgs, read_block_row, refuse_unread
from ela_yolo.host.unknown_modules import row_hint
from ela_yolo.host.weight_matching import match_layers, report_transfer
from ela_yolo.identity_start import IdentityStart
from ela_yolo.util.packaged import packaged_yamls

_WRAPPED = "wrapped_by_ela_yolo"  # of a function
_HINTED = "hinted_by_ela_yolo"  # of an error
_MATCHED = "matched_by_ela_yolo"  # of a model in whose place layers are loaded


def register(callbacks: Sequence[tuple[str, Callable[..., None]]]) -> None:
    """Register ELA as a layer of Ultralytics in this process. Another call changes nothing.

    If Ultralytics has another class named ``ELA``, that class and its rows are left alone.

    Args:
        callbacks: Pairs of an event of Ultralytics and the function that is called then.

    Raises:
        RegistrationError: If Ultralytics is not as this package expects. Nothing in it is changed then.
    """
    # Not at the top of the module: importing the parser calls this function.
    from ultralytics.nn import tasks
    from ultralytics.utils import LOGGER, checks
    from ultralytics.utils.callbacks import base

    places = (
        (tasks, "parse_model", _with_block_rows),
        (getattr(tasks, "BaseModel", None), "load", _with_matched_layers),
        (checks, "check_file", _with_packaged_yamls),
    )
    if all(_is_wrapped(getattr(owner, name, None)) for owner, name, _ in places):
        return
    refuse_changed(event for event, _ in callbacks)
    for entry in ignored_entries():
        LOGGER.warning(
            f"ela-yolo: {ENVIRONMENT} has the entry {entry}, which is ignored; write NAME=module:Class, and a new name"
        )
    for owner, name, wrap in places:
        _wrap(owner, name, wrap)
    for block in (ELA, IdentityStart):
        if not hasattr(tasks, block.__name__):
            setattr(tasks, block.__name__, block)
    for event, callback in callbacks:
        if callback not in base.default_callbacks[event]:
            base.default_callbacks[event].append(callback)
    if hasattr(torch.serialization, "add_safe_globals"):  # where torch has it, ULTRALYTICS_SAFE_LOAD uses it
        torch.serialization.add_safe_globals([*safe_classes()])


def require_registered() -> None:
    """Check that ELA is registered in this process."""
    from ultralytics.nn import tasks  # this import registers

    if not _is_wrapped(tasks.parse_model):
        refuse_changed(())
        raise RegistrationError("Ultralytics does not know ELA in this process; call ela_yolo.register()")


def _is_wrapped(function: Any) -> bool:
    """Return whether a function is wrapped by this package, also below wrappers of others."""
    return hasattr(inspect.unwrap(function, stop=lambda wrapper: hasattr(wrapper, _WRAPPED)), _WRAPPED)


def _with_block_rows(parse_model: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_model)
    def parse(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = [*d["backbone"], *d["head"]]
        # If others wrapped this function and it was registered again, the rows have their args already.
        blocks = {
            layer: read_block_row(layer, rows)
            for layer, row in enumerate(rows)
            if len(row) > 2 and _is_ours(row[2]) and not isinstance(row[-1], RowArgs)
        }
        refuse_unread(rows, blocks)
        if blocks:
            _register_with_trainer()
        for layer, row in blocks.items():
            rows[layer] = [*rows[layer][:2], row.module, RowArgs(row)]
        parts = {"backbone": rows[: len(d["backbone"])], "head": rows[len(d["backbone"]) :]}
        try:
            return parse_model({**d, **parts}, *args, **kwargs)
        except Exception as error:
            _log_hints(rows, error)
            raise

    return parse


def _register_with_trainer() -> None:
    # register() is called while the parser's module is being imported, when the trainer cannot be imported yet.
    from ultralytics.engine.trainer import BaseTrainer

    if not _is_wrapped(BaseTrainer.build_optimizer):
        refuse_changed_trainer()
        _wrap(BaseTrainer, "build_optimizer", with_own_rates)


def _wrap(owner: Any, name: str, wrap: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    if not _is_wrapped(original):  # after a reload of the parser's module, check_file is still wrapped
        replacement = wrap(original)
        setattr(replacement, _WRAPPED, True)
        setattr(owner, name, replacement)
        _replace(original, replacement)


def _log_hints(rows: list[Any], error: Exception) -> None:
    """Log a hint about the row on which the parser failed, if the row resembles a block's."""
    from ultralytics.utils import LOGGER

    if hasattr(error, _HINTED):  # logged already, where the function is wrapped twice
        return
    setattr(error, _HINTED, True)
    modules = [row[2] if len(row) > 2 else None for row in rows]
    if isinstance(error, KeyError):
        unknown = next((layer for layer, module in enumerate(modules) if error.args == (module,)), None)
        hint = "" if unknown is None else row_hint(str(modules[unknown]), known_blocks())
        if hint:
            LOGGER.error(f"ela-yolo: layer {unknown}: {hint}")
    elif isinstance(error, TypeError) and ELA.__name__ in modules and foreign_class(ELA.__name__) is not None:
        LOGGER.error(
            f"ela-yolo: ELA is {foreign_class(ELA.__name__)} here, so its rows build that class; reinstall Ultralytics "
            "to build ela-yolo's"
        )


def _is_ours(module: Any) -> bool:
    """Return whether a row names a known block, and add the block to the parser's globals."""
    if not is_block_name(module):
        return False
    from ultralytics.nn import tasks

    if not hasattr(tasks, module):
        setattr(tasks, module, find_block(module))
    return True


def _with_matched_layers(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_matched_layers(self: Any, weights: Any, verbose: bool = True) -> Any:
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        layers = getattr(source, "model", None)
        done = hasattr(source, _MATCHED)  # matched already, where the function is wrapped twice
        if done or not isinstance(layers, nn.Sequential) or not any(map(is_block, [*layers, *self.model])):
            return load(self, weights, verbose)
        from ultralytics.utils import LOGGER

        source.float()  # as Ultralytics does; the stand-in lacks the layers without a match
        matching = match_layers([*layers], [*self.model])
        stand_in = copy.copy(source)  # the source, with its layers in the order of this model's
        rearranged = nn.Sequential(*(nn.Identity() if match is None else layers[match] for match in matching.matches))
        stand_in._modules = {**source._modules, "model": rearranged}
        setattr(stand_in, _MATCHED, True)
        load(self, stand_in, verbose)
        transfer = report_transfer([*layers], [*self.model], matching.matches)
        if transfer.complete:
            _take_names(self, source)
        if verbose:
            LOGGER.info(transfer)
            if matching.disagreement:
                LOGGER.warning(f"ELA: {matching.disagreement}, so only layers that agree are loaded")
        return transfer

    return load_matched_layers


def _take_names(model: Any, source: Any) -> None:
    """Replace placeholder class names by the source's, as Ultralytics does if every tensor was loaded.

    Ultralytics itself would count the tensors of new blocks as not loaded.
    """
    names = getattr(source, "names", None) or {}
    if getattr(model, "names", None) == {i: str(i) for i in range(len(names))} and not hasattr(model, "set_classes"):
        model.names = dict(names)


def _with_packaged_yamls(check_file: Callable[..., Any]) -> Callable[..., Any]:
    packaged = packaged_yamls()

    @functools.wraps(check_file)
    def check(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        name = str(file).strip()
        if name in packaged and not os.path.exists(name):
            file = str(packaged[name])
        return check_file(file, *args, **kwargs)

    return check


def _replace(original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Replace a function in all loaded modules of Ultralytics, also where it was imported by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "ultralytics" and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)
