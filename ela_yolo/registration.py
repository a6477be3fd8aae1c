"""Makes ELA known to the host: the only file that changes anything in Ultralytics.

Three functions of the host are wrapped, and names and callbacks are added:

- ``ultralytics.nn.tasks.parse_model``: ELA rows get the channels of the layer they read, then the host's parser runs.
- ``ultralytics.nn.tasks.BaseModel.load``: layers are matched with ELA left out of the count, then the host loads.
- ``ultralytics.utils.checks.check_file``: the bare name of a YAML that this package ships is found from any folder.
- ``ultralytics.nn.tasks.ELA``: the parser looks a row's module up among the globals of its own module. Other blocks
  are put there when a row names one, unless the host, or whoever changed it, has something of that name.
- ``ultralytics.utils.callbacks.base.default_callbacks``: an export of a model with ELA is prepared as it starts, and
  the gates are watched while one is trained.

What this relies on is tried out on the host before anything is changed.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ela_yolo.blocks import find_block, is_block, names_block
from ela_yolo.ela import ELA, resolve_settings
from ela_yolo.errors import RegistrationError, RowError
from ela_yolo.export_hook import prepare_export
from ela_yolo.monitor import EVENTS
from ela_yolo.rows import BlockRow, read_block_row, refuse_unread
from ela_yolo.weights import report_transfer, seat_layers

TESTED = ("8.4.108", "8.4.190")  # the oldest and the newest host that the whole test suite passed on
_MARK = "wrapped_by_ela_yolo"
_CALLBACKS = {"on_export_start": prepare_export, **EVENTS}


@dataclass(frozen=True)
class Seam:
    """A place of the host that the registration relies on.

    Attributes:
        name: The place.
        check: What was tried there.
        problem: How it is not as expected; None if it is.
    """

    name: str
    check: str
    problem: str | None


def register() -> None:
    """Make ``ELA`` a layer of Ultralytics in this process. Calling it again changes nothing.

    Raises:
        RegistrationError: If the host is not as this package expects; the host is then left as it was.
    """
    # Not at the top: importing the host's parser calls this function, by the finder that waits for it.
    from ultralytics.nn import tasks
    from ultralytics.utils import checks
    from ultralytics.utils.callbacks import base

    seams = (
        (tasks, "parse_model", _with_ela_rows),
        (getattr(tasks, "BaseModel", None), "load", _with_host_order),
        (checks, "check_file", _with_packaged_yamls),
    )
    if all(hasattr(getattr(owner, name, None), _MARK) for owner, name, _ in seams):
        return
    _refuse_other_hosts()
    for owner, name, wrap in seams:
        original = getattr(owner, name)
        if not hasattr(original, _MARK):  # reloading the parser's module leaves the last one wrapped
            replacement = wrap(original)
            setattr(replacement, _MARK, True)
            setattr(owner, name, replacement)
            _replace(original, replacement)
    setattr(tasks, ELA.__name__, ELA)
    for event, callback in _CALLBACKS.items():
        if callback not in base.default_callbacks[event]:
            base.default_callbacks[event].append(callback)
    if hasattr(torch.serialization, "add_safe_globals"):  # where torch has it, ULTRALYTICS_SAFE_LOAD uses it
        torch.serialization.add_safe_globals([ELA])


def packaged_yamls() -> dict[str, Path]:
    """Return the model and data-set YAMLs of this package: name -> file."""
    package = Path(__file__).parent
    root = package if (package / "cfg").is_dir() else package.parent  # in a clone they lie beside the package
    return {file.name: file for folder in ("cfg", "datasets") for file in sorted((root / folder).glob("*.yaml"))}


class _RowArgs(list[Any]):
    """Args of a block's row, of which the first is the channels of the layer that the row reads.

    The parser replaces the string ``"ch"`` by its list of output channels so far. This keeps the one entry that
    counts, so that the block is called with, and the host's layer table shows, a plain number.
    """

    def __init__(self, row: BlockRow) -> None:
        super().__init__(["ch", *row.options])
        self.row = row

    def __setitem__(self, index: Any, channels_so_far: Any) -> None:
        if index != 0:  # an option that happens to be named like a local of the parser
            return
        channels = channels_so_far[self.row.source]
        try:
            if self.row.block == ELA.__name__:
                resolve_settings(channels, *self.row.options)
        except ValueError as error:
            raise RowError(f"{self.row.where}: {error}") from None
        super().__setitem__(index, channels)


def _with_ela_rows(parse_model: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_model)
    def parse(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = [*d["backbone"], *d["head"]]
        blocks = {i: read_block_row(i, row) for i, row in enumerate(rows) if len(row) > 2 and _is_ours(row[2])}
        refuse_unread(rows, blocks)
        for layer, row in blocks.items():
            rows[layer] = [*rows[layer][:3], _RowArgs(row)]
        parts = {"backbone": rows[: len(d["backbone"])], "head": rows[len(d["backbone"]) :]}
        return parse_model({**d, **parts}, *args, **kwargs)

    return parse


def _is_ours(module: Any) -> bool:
    """Whether a row names one of our blocks, which the host's parser then finds."""
    if not names_block(module):
        return False
    from ultralytics.nn import tasks

    if not hasattr(tasks, module):
        setattr(tasks, module, find_block(module))
    return True


def _with_host_order(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_by_host_layer(self: Any, weights: Any, verbose: bool = True) -> Any:
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        layers = getattr(source, "model", None)
        if not isinstance(layers, nn.Sequential) or not any(map(is_block, [*layers, *self.model])):
            return load(self, weights, verbose)
        from ultralytics.utils import LOGGER

        source.float()  # as the host does; the stand-in holds but the layers that have a seat
        seating = seat_layers([*layers], [*self.model])
        stand_in = copy.copy(source)  # all that the host may ask a source for, but with its layers where ours are
        seated = nn.Sequential(*(nn.Identity() if seat is None else layers[seat] for seat in seating.seats))
        stand_in._modules = {**source._modules, "model": seated}
        load(self, stand_in, verbose)
        transfer = report_transfer([*layers], [*self.model], seating.seats)
        if transfer.complete:
            _take_names(self, source)
        if verbose:
            LOGGER.info(transfer)
            if seating.disagreement:
                LOGGER.warning(f"ELA: {seating.disagreement}, so only layers that agree take weights")
        return transfer

    return load_by_host_layer


def _take_names(model: Any, source: Any) -> None:
    """Replace placeholder class names by the source's, as the host does where every tensor arrived.

    By the host's own count, new ELA blocks are tensors that did not.
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
    """Put the replacement wherever a loaded module of the host holds the original, also where imported by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "ultralytics" and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)


def check_host() -> list[Seam]:
    """Try out what the registration relies on, without changing anything."""
    from ultralytics.nn import tasks
    from ultralytics.utils import checks
    from ultralytics.utils.callbacks import base

    return [
        Seam("tasks.ELA", "the name is free", _try(_foreign_class, tasks)),
        Seam(
            "tasks.parse_model",
            "three probe rows get the channels of the layers that they read",
            _missing(tasks, "parse_model", ["d", "ch", "verbose"])
            or _try(_probe_parser, tasks.parse_model, failure="its parser fails on a probe"),
        ),
        Seam(
            "tasks.BaseModel.load",
            "probe weights arrive by the names of their layers",
            _missing(tasks, "BaseModel.load", ["self", "weights", "verbose"])
            or _try(_probe_loading, tasks.BaseModel, failure="its loading of weights fails on a probe"),
        ),
        Seam("checks.check_file", "it takes a file", _missing(checks, "check_file", ["file"])),
        Seam(
            "checks.check_yaml",
            "it looks files up by check_file",
            _missing(checks, "check_yaml", ["file"]) or _own_lookup(checks),
        ),
        Seam("callbacks.default_callbacks", "it has a list for each event of ours", _try(_events, base)),
    ]


def _refuse_other_hosts() -> None:
    problem = next((seam.problem for seam in check_host() if seam.problem), None)
    if problem is None:
        return
    from ultralytics import __version__ as version

    oldest, newest = TESTED
    known = f"ela-yolo is tested with {oldest} to {newest}"
    if older(newest, version):
        remedy = f"{known}, and this is newer: pip install ultralytics=={newest}, or take a newer ela-yolo"
    elif older(version, oldest):
        remedy = f"{known}, and this is older: pip install -U ultralytics"
    else:
        remedy = f"{known}, so its files were changed: pip install --force-reinstall --no-deps ultralytics=={version}"
    raise RegistrationError(f"ultralytics {version}: {problem}; {remedy}")


def older(version: str, other: str) -> bool:
    """Whether one version of the host is older than the other."""
    ours, theirs = ([int(number) for number in re.findall(r"\d+", each)[:3]] for each in (version, other))
    return ours < theirs


def _try(probe: Callable[[Any], str | None], subject: Any, failure: str = "a probe fails") -> str | None:
    try:
        return probe(subject)
    except Exception as error:
        return f"{failure} ({error!r})"


def _missing(module: ModuleType, function: str, arguments: list[str]) -> str | None:
    found: Any = module
    for name in function.split("."):
        found = getattr(found, name, None)
    if callable(found) and list(inspect.signature(found).parameters)[: len(arguments)] == arguments:
        return None
    return f"{module.__name__}.{function}({', '.join(arguments)}) is missing"


def _foreign_class(tasks: ModuleType) -> str | None:
    found = getattr(tasks, "ELA", ELA)
    return None if found is ELA else f"it already has a class named ELA ({found!r}), which is not overwritten"


def _own_lookup(checks: ModuleType) -> str | None:
    code = getattr(inspect.unwrap(checks.check_yaml), "__code__", None)
    uses = "check_file" in getattr(code, "co_names", ())
    return None if uses else "ultralytics.utils.checks.check_yaml does not use check_file"


def _events(base: ModuleType) -> str | None:
    missing = [event for event in _CALLBACKS if not isinstance(base.default_callbacks.get(event), list)]
    return f"{base.__name__}.default_callbacks has no list named {missing[0]}" if missing else None


def _probe_parser(parse_model: Callable[..., Any]) -> str | None:
    """Build rows that read the layer before, an early one, and -3.

    Identity and Concat have no weights, so the state of torch's random generator is not touched.
    """
    rows: list[list[Any]] = [[-1, 1, "nn.Identity", []], [[-1, 0], 1, "Concat", [1]]]  # 3 channels, then 6
    probes = [_RowArgs(BlockRow("probe", "", source, ())) for source in (-1, 0, -3)]
    rows += [[args.row.source, 1, "nn.Identity", args] for args in probes]
    parse_model({"backbone": rows, "head": []}, 3, False)
    right = [args[0] for args in probes] == [6, 3, 6]
    return None if right else "its parser does not give a row its input channels"


def _probe_loading(base_model: Any) -> str | None:
    """Load 2.0 into the second of two layers, with a placeholder at the first."""
    source, model = base_model(), base_model()
    for probe in (source, model):
        probe.model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))  # starts without random numbers
    nn.init.constant_(source.model[1].weight, 2)
    stand_in = copy.copy(source)
    stand_in._modules = {**source._modules, "model": nn.Sequential(nn.Identity(), source.model[1])}
    inspect.unwrap(base_model.load)(model, stand_in, verbose=False)
    right = [layer.weight.item() for layer in model.model] == [1.0, 2.0]
    return None if right else "it does not match weights by the names of their layers"
