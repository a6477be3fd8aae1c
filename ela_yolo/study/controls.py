"""The controls of a comparison: a model with ELA whose attention is taken out, and the next larger scale."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from ela_yolo.edit.checkpoint import move_layers, read_checkpoint, yaml_text
from ela_yolo.errors import InputError
from ela_yolo.host.blocks import find_block, names_block
from ela_yolo.host.lookup import YAML, find_model, open_model
from ela_yolo.host.model_yaml import load_model_yaml
from ela_yolo.host.row_args import read_args
from ela_yolo.study.folder import folder_key
from ela_yolo.util.files import written_whole
from ela_yolo.util.text import did_you_mean

SCALES = "nsmlx"
_SCALE = re.compile(r"yolo(?:e-)?v?\d+([nslmx])(?!\d)")  # as Ultralytics finds the scale: yolov8n-ela, yolo11s


@dataclass(frozen=True)
class Control:
    """A model that a comparison adds to those that it is given.

    Attributes:
        name: The name of the control in tables, files and folders.
        source: The file that the control is made from; its hash identifies the control.
        make: Writes the control into a folder, unless Ultralytics has it, and returns its name for Ultralytics.
        of: The model with ELA that the control is made from; None for the next larger scale.
    """

    name: str
    source: Path
    make: Callable[[Path], str]
    of: str | None = None


def find_controls(
    kinds: Sequence[str], models: Mapping[str, str], opened: Mapping[str, Any], train: Mapping[str, Any]
) -> tuple[Control, ...]:
    """Return the controls of a comparison, without writing them.

    ``scale`` is the first model with ELA, with each block replaced by ``ChannelScale``. ``next`` is the baseline at the
    next larger scale of its family.

    Args:
        kinds: ``scale``, ``next`` or both.
        models: Name -> YAML or checkpoint; the baseline first.
        opened: Name -> ``YOLO`` object.
        train: The train keys of Ultralytics.

    Raises:
        InputError: If there is no such control, or these models have none.
    """
    known = {
        "scale": lambda: _without_attention(models, opened),
        "next": lambda: _next_scale(*next(iter(models.items())), opened, train),
    }
    for kind in kinds:
        if kind not in known:
            near = did_you_mean(kind, known) or f"; there are {', '.join(known)}"
            raise InputError(f"controls={kind} is not known{near}")
    controls = {kind: known[kind]() for kind in kinds}
    taken = {folder_key(name): model for name, model in models.items()}
    for kind, control in controls.items():
        same = taken.get(folder_key(control.name))
        if same:
            raise InputError(f"controls={kind} and {same} would both be called {control.name}; leave one out")
    return tuple(controls.values())


def _without_attention(models: Mapping[str, str], opened: Mapping[str, Any]) -> Control:
    name = next((name for name, model in opened.items() if _ela_rows(model.model.yaml)), None)
    if name is None:
        raise InputError(
            "controls=scale puts ChannelScale in the place of ELA, and no model has ELA; name one that has, such as "
            "yolov8n-ela.yaml, or leave scale out"
        )
    found = find_model(models[name])
    source = found if found.suffix in YAML else Path(attempt_download_asset(found))
    file = f"{name}-channelscale{source.suffix}"

    def write(target: Path) -> None:
        if source.suffix in YAML:
            target.write_text(yaml_text(source, _with_channel_scale(load_model_yaml(source))), encoding="utf-8")
        else:
            _write_checkpoint(source, target)

    return _written(file, source, write, of=name)


def _written(file: str, source: Path, write: Callable[[Path], object], of: str | None = None) -> Control:
    def make(folder: Path) -> str:
        folder.mkdir(exist_ok=True)
        with written_whole(folder / file) as part:
            write(part)
        return str(folder / file)

    return Control(Path(file).stem, source, make, of)


def _write_checkpoint(source: Path, target: Path) -> None:
    checkpoint, model = read_checkpoint(source)
    blocks = _ela_rows(model.yaml)
    kept = {layer: layer for layer in range(len(model.model)) if layer not in blocks}
    move_layers(source, model, _with_channel_scale(model.yaml), kept)
    torch.save(checkpoint, target)


def _ela_rows(config: Mapping[str, Any]) -> list[int]:
    rows = [*config["backbone"], *config["head"]]
    return [layer for layer, row in enumerate(rows) if row[2] == "ELA" and names_block("ELA")]


def _with_channel_scale(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's mapping with each ELA replaced by ChannelScale of the same ``lr_mult``."""
    changed = deepcopy(dict(config))
    rows = [*changed["backbone"], *changed["head"]]
    for layer in _ela_rows(changed):
        given = read_args(f"layer {layer} ELA", "ELA", find_block("ELA"), rows[layer][3])
        rows[layer][2:] = ["ChannelScale", [{"lr_mult": given["lr_mult"]}] if "lr_mult" in given else []]
    return changed


def _next_scale(name: str, model: str, opened: Mapping[str, Any], train: Mapping[str, Any]) -> Control:
    remedy = "leave next out, or name the larger model in models="
    scale = _SCALE.search(name)
    if not scale:
        raise InputError(f"controls=next: {model} does not tell its scale by its name as yolov8n does; {remedy}")
    source = find_model(model)
    larger = SCALES[SCALES.index(scale[1]) + 1 :]
    if source.suffix in YAML:
        scales = load_model_yaml(source).get("scales") or {}
        larger = "".join(each for each in larger if each in scales)
    if not larger:
        raise InputError(f"controls=next: {model} has no scale above {scale[1]}; {remedy}")
    file = f"{name[: scale.start(1)]}{larger[0]}{name[scale.end(1) :]}{source.suffix}"
    if source.suffix not in YAML:
        return _official(model, file, opened[name], remedy)
    if isinstance(train.get("pretrained"), str):
        raise InputError(
            f"controls=next: pretrained={train['pretrained']} fits one scale, so the larger model would start without "
            "weights that the others have; name checkpoints in models=, or leave next out"
        )
    return _written(file, source, partial(shutil.copyfile, source))


def _official(model: str, file: str, baseline: Any, remedy: str) -> Control:
    """Return the checkpoint of Ultralytics at the next scale, which was trained as the baseline was."""
    wanted = str(Path(model).with_name(file))
    if not {check_yolov5u_filename(each, verbose=False) for each in (Path(model).name, file)} <= GITHUB_ASSETS_NAMES:
        raise InputError(
            f"controls=next: {model} is no checkpoint of Ultralytics, so none of the next scale was trained as it was; "
            f"{remedy}, trained in the same way"
        )
    try:
        found = attempt_download_asset(wanted)
    except Exception as error:  # an error of the network or the disk
        raise InputError(
            f"controls=next needs {wanted}, which is not here and could not be downloaded; put it there, or leave next "
            "out"
        ) from error
    if open_model(found).names != baseline.names:
        raise InputError(f"controls=next: {model} and {found} were trained on other classes; {remedy}")
    return Control(Path(file).stem, Path(found), lambda _: wanted)
