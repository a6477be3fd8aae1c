"""Makes ELA known to Ultralytics: the only file that changes anything in it.

Four functions of Ultralytics are wrapped, and names and callbacks are added:

- ``ultralytics.nn.tasks.parse_model``: the rows of blocks get the channels of the layer that they read, then the
  parser runs. Where it does not know a module that looks like one of the blocks, a hint is logged beside its error.
- ``ultralytics.nn.tasks.BaseModel.load``: layers are matched with blocks left out of the count, then it loads.
- ``ultralytics.engine.trainer.BaseTrainer.build_optimizer``, from the first model with blocks on: the optimizer that it
  builds trains the gates at the multiple of the learning rate that their row names.
- ``ultralytics.utils.checks.check_file``: the bare name of a YAML that this package ships is found from any folder.
- ``ultralytics.nn.tasks.ELA``: the parser looks a row's module up among the globals of its own module. Other blocks
  are put there when a row names one. What Ultralytics, or whoever changed it, has under such a name is left alone, and
  so are its rows.
- ``ultralytics.utils.callbacks.base.default_callbacks``: an export of a model with ELA is prepared as it starts, the
  gates are watched while one is trained, and it is said if a trainer leaves their learning rate out.

What this relies on is tried out before anything is changed. Others may wrap the same functions, before and after.
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

from ela_yolo.channel_scale import ChannelScale
from ela_yolo.ela import ELA
from ela_yolo.errors import RegistrationError
from ela_yolo.host.blocks import find_block, foreign_class, is_block, names_block
from ela_yolo.host.learning_rate import with_own_rates
from ela_yolo.host.probes import refuse_changed, refuse_changed_trainer
from ela_yolo.host.row_hints import row_hint
from ela_yolo.host.rows import RowArgs, read_block_row, refuse_unread
from ela_yolo.host.weights import match_layers, report_transfer
from ela_yolo.util.packaged import packaged_yamls

_MARK = "wrapped_by_ela_yolo"


def register(callbacks: Sequence[tuple[str, Callable[..., None]]]) -> None:
    """Make ``ELA`` a layer of Ultralytics in this process. Calling it again changes nothing.

    A class named ``ELA`` that somebody put there is left alone: its rows are called as Ultralytics calls them.

    Args:
        callbacks: Event of Ultralytics -> what to call then.

    Raises:
        RegistrationError: If Ultralytics is not as this package expects; it is then left as it was.
    """
    # Not at the top: importing the parser calls this function, by the finder that waits for it.
    from ultralytics.nn import tasks
    from ultralytics.utils import checks
    from ultralytics.utils.callbacks import base

    places = (
        (tasks, "parse_model", _with_block_rows),
        (getattr(tasks, "BaseModel", None), "load", _with_ultralytics_order),
        (checks, "check_file", _with_packaged_yamls),
    )
    if all(_is_wrapped(getattr(owner, name, None)) for owner, name, _ in places):
        return
    refuse_changed(event for event, _ in callbacks)
    for owner, name, wrap in places:
        _wrap(owner, name, wrap)
    if not hasattr(tasks, ELA.__name__):
        setattr(tasks, ELA.__name__, ELA)
    for event, callback in callbacks:
        if callback not in base.default_callbacks[event]:
            base.default_callbacks[event].append(callback)
    if hasattr(torch.serialization, "add_safe_globals"):  # where torch has it, ULTRALYTICS_SAFE_LOAD uses it
        torch.serialization.add_safe_globals([ELA, ChannelScale])


def require_registered() -> None:
    """See to it that ``register`` has run in this process.

    Raises:
        RegistrationError: If it failed, or Ultralytics' parser was reloaded since; the message says why.
    """
    from ultralytics.nn import tasks  # whose import registers

    if not _is_wrapped(tasks.parse_model):
        refuse_changed(())
        raise RegistrationError("Ultralytics does not know ELA in this process; call ela_yolo.register()")


def _is_wrapped(function: Any) -> bool:
    """Whether a function is a wrapper of ours, or somebody's decoration of one by functools.wraps."""
    return hasattr(inspect.unwrap(function, stop=lambda wrapper: hasattr(wrapper, _MARK)), _MARK)


def _with_block_rows(parse_model: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_model)
    def parse(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = [*d["backbone"], *d["head"]]
        # Where somebody wrapped this function and it was registered again, the rows have their args already.
        blocks = {
            layer: read_block_row(layer, rows)
            for layer, row in enumerate(rows)
            if len(row) > 2 and _is_ours(row[2]) and not isinstance(row[-1], RowArgs)
        }
        refuse_unread(rows, blocks)
        if blocks:
            _register_with_trainer()
        for layer, row in blocks.items():
            rows[layer] = [*rows[layer][:3], RowArgs(row)]
        parts = {"backbone": rows[: len(d["backbone"])], "head": rows[len(d["backbone"]) :]}
        try:
            return parse_model({**d, **parts}, *args, **kwargs)
        except Exception as error:
            _log_hints(rows, error)
            raise

    return parse


def _register_with_trainer() -> None:
    # The trainer cannot be imported while the parser's module is, which is when register() is called.
    from ultralytics.engine.trainer import BaseTrainer

    if not _is_wrapped(BaseTrainer.build_optimizer):
        refuse_changed_trainer()
        _wrap(BaseTrainer, "build_optimizer", with_own_rates)


def _wrap(owner: Any, name: str, wrap: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    if not _is_wrapped(original):  # reloading the parser's module leaves the last one wrapped
        replacement = wrap(original)
        setattr(replacement, _MARK, True)
        setattr(owner, name, replacement)
        _replace(original, replacement)


def _log_hints(rows: list[Any], error: Exception) -> None:
    """Say what a row that the parser failed on has to do with the blocks, if anything."""
    from ultralytics.utils import LOGGER

    if hasattr(error, _MARK):  # another wrapper of ours, within this one, has said it
        return
    setattr(error, _MARK, True)
    modules = [row[2] if len(row) > 2 else None for row in rows]
    if isinstance(error, KeyError):
        unknown = next((layer for layer, module in enumerate(modules) if error.args == (module,)), None)
        hint = "" if unknown is None else row_hint(str(modules[unknown]))
        if hint:
            LOGGER.error(f"ela-yolo: layer {unknown}: {hint}")
    elif isinstance(error, TypeError) and ELA.__name__ in modules and foreign_class(ELA.__name__) is not None:
        LOGGER.error(f"ela-yolo: ELA is {foreign_class(ELA.__name__)} here, so its rows are called as that class's")


def _is_ours(module: Any) -> bool:
    """Whether a row names one of our blocks, which the parser then finds."""
    if not names_block(module):
        return False
    from ultralytics.nn import tasks

    if not hasattr(tasks, module):
        setattr(tasks, module, find_block(module))
    return True


def _with_ultralytics_order(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_by_ultralytics_layer(self: Any, weights: Any, verbose: bool = True) -> Any:
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        layers = getattr(source, "model", None)
        done = hasattr(source, _MARK)  # by another wrapper of ours, around this one
        if done or not isinstance(layers, nn.Sequential) or not any(map(is_block, [*layers, *self.model])):
            return load(self, weights, verbose)
        from ultralytics.utils import LOGGER

        source.float()  # as Ultralytics does; the stand-in holds but the layers that are matched
        matching = match_layers([*layers], [*self.model])
        stand_in = copy.copy(source)  # all that may be asked of a source, but with its layers where ours are
        rearranged = nn.Sequential(*(nn.Identity() if match is None else layers[match] for match in matching.matches))
        stand_in._modules = {**source._modules, "model": rearranged}
        setattr(stand_in, _MARK, True)
        load(self, stand_in, verbose)
        transfer = report_transfer([*layers], [*self.model], matching.matches)
        if transfer.complete:
            _take_names(self, source)
        if verbose:
            LOGGER.info(transfer)
            if matching.disagreement:
                LOGGER.warning(f"ELA: {matching.disagreement}, so only layers that agree take weights")
        return transfer

    return load_by_ultralytics_layer


def _take_names(model: Any, source: Any) -> None:
    """Replace placeholder class names by the source's, as Ultralytics does where every tensor was taken over.

    By its own count, new ELA blocks are tensors that were not.
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
    """Put the replacement wherever a loaded module of Ultralytics holds the original, also where imported by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "ultralytics" and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)
