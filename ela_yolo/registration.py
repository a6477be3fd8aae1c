"""Makes ELA known to the host: the only file that changes anything in Ultralytics.

Three functions of the host are wrapped, and one name is added:

- ``ultralytics.nn.tasks.parse_model``: ELA rows get the channels of the layer they read, then the host's parser runs.
- ``ultralytics.nn.tasks.BaseModel.load``: layers are matched with ELA left out of the count, then the host loads.
- ``ultralytics.utils.checks.check_file``: the bare name of a YAML that this package ships is found from any folder.
- ``ultralytics.nn.tasks.ELA``: the parser looks a row's module up among the globals of its own module.

What this relies on is tried out on the host before anything is changed.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ela_yolo.ela import ELA, resolve_settings
from ela_yolo.errors import RegistrationError, RowError
from ela_yolo.weights import is_ela, report_transfer, seat_layers

OPTIONS = {  # what a row may give, everything but channels: name -> default
    name: parameter.default for name, parameter in list(inspect.signature(ELA).parameters.items())[1:]
}
_MARK = "wrapped_by_ela_yolo"


def register() -> None:
    """Make ``ELA`` a layer of Ultralytics in this process. Calling it again changes nothing.

    Raises:
        RegistrationError: If the host is not as this package expects; the host is then left as it was.
    """
    # Not at the top: importing the host's parser calls this function, by the finder that waits for it.
    from ultralytics.nn import tasks
    from ultralytics.utils import checks

    seams = (
        (tasks, "parse_model", _with_ela_rows),
        (getattr(tasks, "BaseModel", None), "load", _with_host_order),
        (checks, "check_file", _with_packaged_yamls),
    )
    if all(hasattr(getattr(owner, name, None), _MARK) for owner, name, _ in seams):
        return
    _check_host(tasks, checks)
    for owner, name, wrap in seams:
        original = getattr(owner, name)
        if not hasattr(original, _MARK):  # reloading the parser's module leaves the last one wrapped
            replacement = wrap(original)
            setattr(replacement, _MARK, True)
            setattr(owner, name, replacement)
            _replace(original, replacement)
    setattr(tasks, ELA.__name__, ELA)


def packaged_yamls() -> dict[str, Path]:
    """Return the model and data-set YAMLs of this package: name -> file."""
    package = Path(__file__).parent
    root = package if (package / "cfg").is_dir() else package.parent  # in a clone they lie beside the package
    return {file.name: file for folder in ("cfg", "datasets") for file in sorted((root / folder).glob("*.yaml"))}


class _RowArgs(list[Any]):
    """Args of an ELA row, of which the first is the channels of the layer that the row reads.

    The parser replaces the string ``"ch"`` by its list of output channels so far. This keeps the one entry that
    counts, so that the block is called with, and the host's layer table shows, a plain number.
    """

    def __init__(self, row: str, source: int, options: Sequence[Any]) -> None:
        super().__init__(["ch", *options])
        self._row = row
        self._source = source
        self._options = options

    def __setitem__(self, index: Any, channels_so_far: Any) -> None:
        if index != 0:  # an option that happens to be named like a local of the parser
            return
        channels = channels_so_far[self._source]
        try:
            resolve_settings(channels, *self._options)
        except ValueError as error:
            raise RowError(f"{self._row}: {error}") from None
        super().__setitem__(index, channels)


def _with_ela_rows(parse_model: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_model)
    def parse(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        parts = {
            part: [
                [*row[:3], _row_args(layer, row)] if len(row) > 2 and row[2] == "ELA" else row
                for layer, row in enumerate(d[part], first)
            ]
            for part, first in (("backbone", 0), ("head", len(d["backbone"])))
        }
        _refuse_unread([*parts["backbone"], *parts["head"]])
        return parse_model({**d, **parts}, *args, **kwargs)

    return parse


def _row_args(layer: int, row: Sequence[Any]) -> _RowArgs:
    where = f"ELA row {layer} [{', '.join('null' if item is None else str(item) for item in row)}]"
    if len(row) != 4:
        raise RowError(f"{where}: a row has four entries, [from, repeats, module, args], such as [-1, 1, ELA, []]")
    source, repeats, _, args = row
    if not isinstance(source, int) or isinstance(source, bool):
        raise RowError(f"{where}: ELA reads one layer, so its 'from' is one number such as -1 or 4, got {source!r}")
    if source >= layer or source < -max(layer, 1):
        raise RowError(f"{where}: 'from' {source} is not a layer before this one; use -1 or a number below {layer}")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise RowError(f"{where}: repeats must be a positive integer, got {repeats!r}")
    options = _positional_options(where, args)
    # Variant and gate in full, so that the host's layer table names them.
    options = [default if option is None else option for option, default in zip(options, OPTIONS.values(), strict=True)]
    while options[-1] is None:
        options.pop()
    return _RowArgs(where, source, options)


def _refuse_unread(rows: Sequence[Any]) -> None:
    """Refuse an ELA row that no later row reads: a number that should point to it was not raised."""
    blocks = [layer for layer, row in enumerate(rows[:-1]) if row and isinstance(row[-1], _RowArgs)]
    if not blocks:  # then what the rows hold is the host's affair
        return
    sources = [row[0] if isinstance(row[0], list) else [row[0]] for row in rows]
    read = {layer + s if s < 0 else s for layer, row in enumerate(sources) for s in row if isinstance(s, int)}
    for layer in blocks:
        if layer not in read:
            raise RowError(
                f"ELA row {layer} is read by no layer; raise the numbers of the rows that should read it, "
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
                near = get_close_matches(str(key), OPTIONS, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise RowError(f"{where}: unknown key {key!r}; {hint}{allowed}")
        return [args[0].get(option) for option in OPTIONS]
    if len(args) > len(OPTIONS):
        raise RowError(f"{where}: {len(args)} args; {allowed}")
    return [*args, *[None] * (len(OPTIONS) - len(args))]


def _with_host_order(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_by_host_layer(self: Any, weights: Any, verbose: bool = True) -> Any:
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        layers = getattr(source, "model", None)
        if not isinstance(layers, nn.Sequential) or not any(map(is_ela, [*layers, *self.model])):
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


def _check_host(tasks: ModuleType, checks: ModuleType) -> None:
    """Try out, without changing anything, what the registration relies on."""
    import ultralytics

    host = f"ultralytics {ultralytics.__version__}"
    if getattr(tasks, "ELA", ELA) is not ELA:
        raise RegistrationError(
            f"{host} already has a class named ELA ({tasks.ELA!r}), which is not overwritten; "
            "reinstall ultralytics if its files were edited"
        )
    remedy = "install a version that this ela-yolo supports: pip install -U ela-yolo ultralytics"
    for module, function, arguments in (
        (tasks, "parse_model", ["d", "ch", "verbose"]),
        (tasks, "BaseModel.load", ["self", "weights", "verbose"]),
        (checks, "check_file", ["file"]),
        (checks, "check_yaml", ["file"]),
    ):
        found: Any = module
        for name in function.split("."):
            found = getattr(found, name, None)
        if not callable(found) or list(inspect.signature(found).parameters)[: len(arguments)] != arguments:
            raise RegistrationError(
                f"{host}: {module.__name__}.{function}({', '.join(arguments)}) is missing; {remedy}"
            )
    code = getattr(inspect.unwrap(checks.check_yaml), "__code__", None)
    if "check_file" not in getattr(code, "co_names", ()):
        raise RegistrationError(f"{host}: ultralytics.utils.checks.check_yaml does not use check_file; {remedy}")
    try:
        widths = _probe_parser(tasks.parse_model)
    except Exception as error:
        raise RegistrationError(f"{host}: its parser fails on a probe ({error!r}); {remedy}") from error
    if widths != (6, 3, 6):
        raise RegistrationError(f"{host}: its parser does not give a row its input channels; {remedy}")
    try:
        arrived = _probe_loading(tasks.BaseModel)
    except Exception as error:
        raise RegistrationError(f"{host}: its loading of weights fails on a probe ({error!r}); {remedy}") from error
    if arrived != [1.0, 2.0]:
        raise RegistrationError(f"{host}: it does not match weights by the names of their layers; {remedy}")


def _probe_parser(parse_model: Callable[..., Any]) -> tuple[Any, ...]:
    """Return the widths that the host's parser gives to rows that read the layer before, an early one, and -3.

    Identity and Concat have no weights, so the state of torch's random generator is not touched.
    """
    rows: list[list[Any]] = [[-1, 1, "nn.Identity", []], [[-1, 0], 1, "Concat", [1]]]  # 3 channels, then 6
    probes = {source: _RowArgs("probe", source, []) for source in (-1, 0, -3)}
    rows += [[source, 1, "nn.Identity", args] for source, args in probes.items()]
    parse_model({"backbone": rows, "head": []}, 3, False)
    return tuple(args[0] for args in probes.values())


def _probe_loading(base_model: Any) -> list[float]:
    """Return the weights of two layers after loading 2.0 into the second, with a placeholder at the first."""
    source, model = base_model(), base_model()
    for probe in (source, model):
        probe.model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))  # starts without random numbers
    nn.init.constant_(source.model[1].weight, 2)
    stand_in = copy.copy(source)
    stand_in._modules = {**source._modules, "model": nn.Sequential(nn.Identity(), source.model[1])}
    inspect.unwrap(base_model.load)(model, stand_in, verbose=False)
    return [layer.weight.item() for layer in model.model]
