"""Probes Ultralytics: checks everything that the registration relies on, before anything is changed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ela_yolo.errors import RegistrationError
from ela_yolo.host.rows import BlockRow, RowArgs
from ela_yolo.util.installed import distributions_of, installed_folder
from ela_yolo.util.installer import installer

TESTED = ("8.3.0", "8.4.190")  # oldest and newest Ultralytics on which all tests passed


def refuse_changed(events: Iterable[str]) -> None:
    """Raise an error if Ultralytics is not as expected; nothing in it is changed.

    The parser must give three probe rows the channels of the layers that they read, and the loading must match probe
    weights by the names of their layers.

    Args:
        events: The events for which there must be a list of callbacks.
    """
    from ultralytics.nn import tasks
    from ultralytics.utils import checks
    from ultralytics.utils.callbacks import base

    _refuse(
        _missing(tasks, "parse_model", ["d", "ch", "verbose"])
        or _try(_probe_parser, tasks.parse_model, failure="its parser fails on a probe")
        or _missing(tasks, "BaseModel.load", ["self", "weights", "verbose"])
        or _try(_probe_loading, tasks.BaseModel, failure="its loading of weights fails on a probe")
        or _missing(checks, "check_file", ["file"])
        or _missing(checks, "check_yaml", ["file"])
        or _own_lookup(checks)
        or _try(lambda module: _events(module, events), base, failure="its callbacks fail on a probe")
    )


def refuse_changed_trainer() -> None:
    """Raise an error if Ultralytics' trainer does not build the optimizer of a model. This imports the trainer."""
    from ultralytics.engine import trainer

    _refuse(_missing(trainer, "BaseTrainer.build_optimizer", ["self", "model"]))


def _refuse(problem: str | None) -> None:
    if problem is None:
        return
    from ultralytics import __version__ as version
    from ultralytics.utils import ROOT

    oldest, newest = TESTED
    known, name = f"ela-yolo is tested with {oldest} to {newest}", (*distributions_of("ultralytics"), "ultralytics")[0]
    if older(newest, version):
        remedy = f"{known}, and this is newer: take a newer ela-yolo, or {installer('install', f'{name}=={newest}')}"
    elif older(version, oldest):
        remedy = f"{known}, and this is older: {installer('install', '-U', name)}"
    elif _is_local_copy():
        remedy = f"{known}, so the local copy {ROOT} was changed: change that back, or run outside of its folder"
    else:
        again = installer("install", "--force-reinstall", "--no-deps", f"{name}=={version}")
        remedy = f"{known}, so its files were changed: {again}"
    raise RegistrationError(f"ultralytics {version}: {problem}; {remedy}")


def _is_local_copy() -> bool:
    """Return whether Ultralytics is not the installed one, but a clone's in the working folder or in PYTHONPATH."""
    import ultralytics

    installed = installed_folder("ultralytics", "ultralytics")
    return installed is None or installed.resolve() != Path(ultralytics.__file__).parent.resolve()


def older(version: str, other: str) -> bool:
    """Return whether a version of Ultralytics is older than another."""
    from ultralytics.utils.checks import check_version

    return bool(check_version(version, f"<{other}"))


def _try(attempt: Callable[[Any], str | None], subject: Any, failure: str) -> str | None:
    try:
        return attempt(subject)
    except Exception as error:
        return f"{failure} ({error!r})"


def _missing(module: ModuleType, function: str, arguments: list[str]) -> str | None:
    found: Any = module
    for name in function.split("."):
        found = getattr(found, name, None)
    try:
        inspect.signature(found).bind(*arguments)  # a wrapper of others may accept any arguments
    except (TypeError, ValueError):
        return f"{module.__name__}.{function}({', '.join(arguments)}) is missing"
    return None


def _own_lookup(checks: ModuleType) -> str | None:
    code = getattr(inspect.unwrap(checks.check_yaml), "__code__", None)
    uses = "check_file" in getattr(code, "co_names", ())
    return None if uses else "ultralytics.utils.checks.check_yaml does not use check_file"


def _events(base: ModuleType, events: Iterable[str]) -> str | None:
    missing = [event for event in events if not isinstance(base.default_callbacks.get(event), list)]
    return f"{base.__name__}.default_callbacks has no list named {missing[0]}" if missing else None


def _probe_parser(parse_model: Callable[..., Any]) -> str | None:
    """Build rows that read the layer before, layer 0, and -3.

    Identity and Concat have no weights, so the state of torch's random generator does not change.
    """
    rows: list[list[Any]] = [[-1, 1, "nn.Identity", []], [[-1, 0], 1, "Concat", [1]]]  # 3 channels, then 6
    probes = [RowArgs(BlockRow("probe", "ELA", source, (), "", ())) for source in (-1, 0, -3)]
    rows += [[args.row.source, 1, "nn.Identity", args] for args in probes]
    parse_model({"backbone": rows, "head": []}, 3, False)
    right = [args[0] for args in probes] == [6, 3, 6]
    return None if right else "its parser does not give a row its input channels"


def _probe_loading(base_model: Any) -> str | None:
    """Load 2.0 into the last of three layers, with a placeholder at the second.

    The first one's weight has the name of a first convolution's, which 8.3.132 looks up.
    """
    source, model = base_model(), base_model()
    for probe in (source, model):
        first = nn.ModuleDict({"conv": nn.BatchNorm2d(1)})  # a norm starts without random numbers
        probe.model = nn.Sequential(first, nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    nn.init.constant_(source.model[2].weight, 2)
    stand_in = copy.copy(source)
    layers = (source.model[0], nn.Identity(), source.model[2])
    stand_in._modules = {**source._modules, "model": nn.Sequential(*layers)}
    inspect.unwrap(base_model.load)(model, stand_in, verbose=False)
    right = [layer.weight.item() for layer in model.model[1:]] == [1.0, 2.0]
    return None if right else "it does not match weights by the names of their layers"
