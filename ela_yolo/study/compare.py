"""Compares models fairly: with the same data, budget and seeds, all seeds counted, and no claim beyond the evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from ultralytics import __version__ as ultralytics_version
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_file, check_yaml
from ultralytics.utils.downloads import attempt_download_asset
from ultralytics.utils.torch_utils import get_flops, select_device

from ela_yolo._version import __version__
from ela_yolo.cost.measure import infer
from ela_yolo.cost.result import Time
from ela_yolo.cost.timing import alternate, machine
from ela_yolo.errors import CompareError, InputError
from ela_yolo.host.lookup import YAML, check_data, check_model, find_model, open_model
from ela_yolo.host.patches import require_registered
from ela_yolo.study.controls import find_controls
from ela_yolo.study.folder import agree_on_settings, folder_key, only_driver
from ela_yolo.study.result import CompareResult, ModelSize
from ela_yolo.study.runs import SeedRun, check_engine, run_all
from ela_yolo.study.statistics import MOST_SEEDS, paired_differences
from ela_yolo.util.files import sha256
from ela_yolo.util.text import plain

ROUNDS = 40
OURS = {  # train keys that a comparison sets itself -> the reason
    "model": "models= names them",
    "seed": "seeds= names them",
    "project": "out= names the folder",
    "name": "out= names the folder",
    "save_dir": "out= names the folder",
    "exist_ok": "out= names the folder",
    "resume": "a run that was cut off is run again from its start",
    "save": "the last epoch's weights are what is measured",
    "mode": "every run trains and validates",
    "task": "the models have one",
    "patience": "every run trains all its epochs",
    "time": "every run trains all its epochs",
    "val": "mAP is shown for each epoch",
    "freeze": "it counts layers, and the blocks' rows shift those",
}
OF_A_FILE = {**OURS, "data": "data= names it", "cfg": "one file is enough"}  # the same in a file that cfg= names
CARRIED = ("imgsz", "single_cls")  # train keys that Ultralytics takes from a checkpoint if they are not given
WEIGHTS = ("pretrained", "distill_model")  # train keys that may name a checkpoint
FIXED = {"patience": 0}  # early stopping uses the validation images, and gives the models unequal budgets
DEFAULTS = {"plots": False}


def compare(
    models: Sequence[str | Path],
    data: str | Path,
    seeds: Sequence[int],
    out: str | Path = "compare",
    engine: str | None = None,
    controls: Sequence[str] = (),
    **train_keys: Any,
) -> CompareResult:
    """Train every model with every seed, under the same conditions, and compare the models seed by seed.

    A run trains all of its epochs, then the weights of the last epoch are validated. Each run has an interpreter of its
    own. Runs that are finished in ``out`` are kept: the same call continues a comparison that was interrupted, and a
    call with more models or seeds extends it. Only one call at a time may use ``out``.

    Args:
        models: Model YAMLs or checkpoints (.pt) of detectors, found as Ultralytics finds them; the baseline first.
        data: The data set's YAML.
        seeds: The seeds; every model is trained with each of them. The exact test needs 6 to show anything.
        out: The folder for the runs.
        engine: None runs one after the other on this machine. ``ray`` uses the Ray cluster: each run gets one GPU, or
            without GPUs as many cores as it has threads. All machines need the folders, the data and the packages of
            this one.
        controls: Models to add to the comparison. ``scale``: the first model with ELA, with each block replaced by
            ``ChannelScale``, which multiplies each channel by one learned factor. ``next``: the baseline at the next
            larger scale; for a checkpoint of Ultralytics, the checkpoint of that scale.
        **train_keys: Train keys of Ultralytics, such as ``epochs=100``; they are the same for all runs. ``cfg=`` names
            a file of train keys.

    Returns:
        The scores of all runs, and the paired differences to the baseline with their exact tests.

    Raises:
        InputError: If a file, a seed, a key or a control is wrong, or ``out`` holds runs with other settings.
        ModelYamlError: If a YAML is not a model YAML.
        CheckpointError: If there is no such checkpoint.
        CompareError: If a run failed (the other runs are finished first), runs differ in their batch, Ray is not
            installed, or another comparison runs in ``out``.
        RegistrationError: If Ultralytics is not as this package expects.

    Example:
        >>> result = compare(
        ...     ["yolov8n.yaml", "yolov8n-ela.yaml"], data="scenes.yaml", seeds=range(6), epochs=20, imgsz=128
        ... )  # doctest: +SKIP
        >>> print(result.differences[0].verdict)  # doctest: +SKIP
    """
    require_registered()
    seeds = _checked_seeds(seeds)
    named = _checked_models(models)
    train = _checked_keys(train_keys)
    check_engine(engine, train)
    data = str(data)
    if Path(data).suffix not in YAML:
        raise InputError(f"data={data} is not a data-set YAML; name a .yaml file")
    check_data(data)
    opened = {name: _open_detector(model) for name, model in named.items()}
    added = find_controls(controls, named, opened, train)
    shared = {
        "data": data,
        "sha256 of data": sha256(check_file(data)),
        **_carried(opened, train),
        **train,
        **{f"sha256 of {key}": sha256(_file(train[key])) for key in WEIGHTS if isinstance(train.get(key), str)},
        "ela-yolo": __version__,
        "ultralytics": ultralytics_version,
        "torch": str(torch.__version__),
    }
    sources = {name: _file(model) for name, model in named.items()} | {each.name: each.source for each in added}
    with only_driver(Path(out)):
        agree_on_settings(Path(out), shared, {name: sha256(file) for name, file in sources.items()})
        made = {control.name: control.make(Path(out).resolve() / "models") for control in added}
        named, opened = named | made, opened | {name: _open_detector(model) for name, model in made.items()}
        runs = run_all(named, data, seeds, Path(out), engine, train)
    refuse_unlike(runs)
    classes = 1 if train.get("single_cls") else int(check_det_dataset(data)["nc"])
    networks = {name: type(each.model)(each.model.yaml, nc=classes, verbose=False) for name, each in opened.items()}
    sizes = _measure(networks, runs[0].imgsz)
    scores = {name: [run.map50_95 for run in runs if run.model == name] for name in named}
    resampled = {name: [run.resampled for run in runs if run.model == name] for name in named}
    differences = paired_differences(scores, resampled)
    pairs = [(control.name, control.of) for control in added if control.of]
    attention = [paired_differences(scores, resampled, pair)[0] for pair in pairs]
    return CompareResult(data, train, machine(), sizes, runs, differences, *attention)


def refuse_unlike(runs: Sequence[SeedRun]) -> None:
    """Raise an error if runs trained with different batches, or a training failed.

    Raises:
        CompareError: If a run had another batch than the first, or its mAP is not a number.
    """
    for run in runs:
        which = f"{run.model} with seed {run.seed}"
        if run.batch != runs[0].batch:  # Ultralytics halves it where memory runs out
            raise CompareError(
                f"{which} trained with batch {run.batch}, and others with {runs[0].batch}; "
                f"take batch={min(each.batch for each in runs)} and another out="
            )
        if not math.isfinite(run.map50_95):
            raise CompareError(f"{which} has no mAP50-95, so its training failed; look at its log, and leave it out")


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(seeds)
    if not found or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in found):
        raise InputError(f"seeds must be whole numbers from 0 such as 0,1,2, got {','.join(map(str, found)) or 'none'}")
    if len(set(found)) < len(found):
        raise InputError(f"seeds={','.join(map(str, found))}: one is named twice, and would count twice; leave it out")
    if len(found) > MOST_SEEDS:
        raise InputError(f"{len(found)} seeds are more than the exact test can take; name at most {MOST_SEEDS}")
    return found


def _checked_models(models: Sequence[str | Path]) -> dict[str, str]:
    named: dict[str, str] = {}
    for model in map(str, models):
        check_model(model)
        find_model(model)  # raises an error for a URL or an exported file
        name = Path(model).stem
        same = [named[each] for each in named if folder_key(each) == folder_key(name)]
        if same:
            raise InputError(f"{same[0]} and {model} would both be called {name}; copy one to another name")
        named[name] = model
    if len(named) < 2:
        raise InputError("name two models or more, the baseline first, such as models=yolov8n.yaml,yolov8n-ela.yaml")
    return named


def _checked_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    for key, why in OURS.items():
        if key in keys:
            raise InputError(f"{key}= has no place in a comparison: {why}; leave it out")
    keys = {**_keys_of_file(keys.get("cfg")), **keys}
    keys.pop("cfg", None)
    batch = keys.get("batch", 16)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch={batch} would be chosen for each model by its memory; name a number of images")
    try:
        get_cfg(overrides=dict(keys))
    except (SyntaxError, TypeError, ValueError) as error:
        raise InputError(plain(error)) from None
    for key in WEIGHTS:
        if isinstance(keys.get(key), str):
            check_model(keys[key])
    return dict(json.loads(json.dumps({**DEFAULTS, **keys, **FIXED}, default=str)))


def _keys_of_file(cfg: Any) -> dict[str, Any]:
    """Return the train keys of a file without those at their default, which ``yolo copy-cfg`` writes too.

    Raises:
        InputError: If there is no such file, or it sets keys that a comparison sets itself.
    """
    if not cfg:
        return {}
    file = check_yaml(str(cfg), hard=False) if Path(str(cfg)).suffix in YAML else None
    if not file:
        raise InputError(f"there is no cfg={cfg}; name a YAML file of train keys")
    try:
        keys = yaml.safe_load(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cfg={cfg} cannot be read: {plain(error)}; mend it") from None
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise InputError(f"cfg={cfg} holds no train keys; write one a line, such as 'epochs: 50'")
    keys = {
        key: value
        for key, value in keys.items()
        if key not in DEFAULT_CFG_DICT or value != DEFAULT_CFG_DICT[key] or key in CARRIED
    }
    for key, why in OF_A_FILE.items():
        if key in keys:
            raise InputError(f"{key}: in cfg={cfg} has no place in a comparison: {why}; leave it out of a copy")
    return keys


def _carried(opened: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the train keys that Ultralytics takes from the checkpoints.

    Raises:
        InputError: If the checkpoints differ in one that is not given.
    """
    found = {}
    for key in CARRIED:
        carried = {name: model.overrides.get(key) or DEFAULT_CFG_DICT[key] for name, model in opened.items()}
        if key not in train and len({str(value) for value in carried.values()}) > 1:
            told = ", ".join(f"{name} with {value}" for name, value in carried.items())
            raise InputError(f"{key} is not the same for all: {told}; name it, such as {key}={DEFAULT_CFG_DICT[key]}")
        found[key] = next(iter(carried.values()))
    return found


def _file(model: str) -> Path:
    file = find_model(model)
    return file if file.suffix in YAML else Path(attempt_download_asset(file))


def _open_detector(model: str) -> Any:
    opened = open_model(model)
    if opened.task != "detect":
        raise InputError(f"{model} is a model of the task {opened.task}; name detectors, whose boxes can be compared")
    return opened


def _measure(networks: Mapping[str, Any], imgsz: int) -> tuple[ModelSize, ...]:
    select_device("cpu", verbose=False)  # sets the number of threads, as in all commands
    parameters = {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}
    gflops = {name: get_flops(network, imgsz) for name, network in networks.items()}
    channels = next(iter(networks.values())).yaml.get("channels", 3)  # of the data, so the same in all models
    image = torch.rand(1, channels, imgsz, imgsz)
    calls = {name: partial(infer, network.eval().fuse(verbose=False), image) for name, network in networks.items()}
    return tuple(
        ModelSize(name, parameters[name], gflops[name], Time.of(seconds))
        for name, seconds in alternate(calls, ROUNDS).items()
    )
