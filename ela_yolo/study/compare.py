"""Compares models fairly: with the same data, budget and seeds, all seeds counted, and no claim beyond the evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ela_yolo.errors import CompareError, InputError
from ela_yolo.host.calls import package_versions
from ela_yolo.host.lookup import (
    YAML,
    check_data,
    data_images,
    find_model,
    find_weights,
    open_model,
    yaml_of_data,
)
from ela_yolo.host.patches import require_registered
from ela_yolo.host.scoring import METRICS
from ela_yolo.host.train_keys import check_train_keys, default_of
from ela_yolo.study.folder import check_or_write_settings, locked
from ela_yolo.study.result import CompareResult
from ela_yolo.study.runs import SeedRun, check_engine, run_all
from ela_yolo.study.statistics import MAX_SEEDS, paired_differences
from ela_yolo.util.files import sha256

RESERVED_KEYS = {  # train keys that a comparison sets itself -> the reason
    "model": "models= names them",
    "seed": "seeds= names them",
    "cfg": "name the keys themselves",
    "project": "out= names the folder",
    "name": "out= names the folder",
    "save_dir": "out= names the folder",
    "exist_ok": "out= names the folder",
    "resume": "an interrupted run starts again",
    "save": "the last epoch's weights are measured",
    "mode": "every run trains and validates",
    "task": "the models have one",
    "patience": "every run trains all its epochs",
    "time": "every run trains all its epochs",
    "val": "the metric is shown for each epoch",
    "freeze": "it counts layers, and the blocks' rows shift those",
}
CHECKPOINT_KEYS = ("imgsz", "single_cls")  # train keys that Ultralytics takes from a checkpoint if they are not given
WEIGHTS_KEYS = ("pretrained", "distill_model")  # train keys that may name a checkpoint
FIXED = {"patience": 0}  # early stopping uses the validation images, and gives the models unequal budgets
DEFAULTS = {"plots": False}


def compare(
    models: Sequence[str | Path],
    data: str | Path,
    seeds: Sequence[int],
    out: str | Path = "compare",
    engine: str | None = None,
    split: str = "val",
    **train_keys: Any,
) -> CompareResult:
    """Train every model with every seed, under the same conditions, and compare the models seed by seed.

    A run trains all of its epochs, then the weights of the last epoch are validated. Each run has its own interpreter.
    Finished runs in ``out`` are kept: the same call continues an interrupted comparison, and a call with more models or
    seeds extends it. Only one call at a time may use ``out``.

    Args:
        models: Model YAMLs or checkpoints (.pt) of one task, found as Ultralytics finds them; the baseline first.
        data: The data set's YAML, or for classification a folder.
        seeds: The seeds; every model is trained with each of them. The exact test needs 6 to show anything.
        out: The folder for the runs.
        engine: None runs one after the other on this machine. ``ray`` uses the Ray cluster: each run gets one GPU, or
            without GPUs as many cores as it has threads. All machines need the folders, the data and the packages of
            this one.
        split: The images that the trained models are measured on: ``val`` or ``test``.
        **train_keys: Train keys of Ultralytics, such as ``epochs=100``; they are the same for all runs.

    Returns:
        The scores of all runs, and the paired differences to the baseline with their exact tests.

    Raises:
        InputError: If a file, a seed or a key is wrong, or ``out`` holds runs with other settings.
        ModelYamlError: If a YAML is not a model YAML.
        CheckpointError: If there is no such checkpoint.
        CompareError: If a run failed (the other runs are finished first), runs differ in their batch, Ray is not
            installed, or another comparison runs in ``out``.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
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
    opened = {name: open_model(model) for name, model in named.items()}
    task = _common_task(named, opened)
    data = str(data)
    if split not in ("val", "test"):
        raise InputError(f"split must be val or test, got {split!r}")
    if task != "classify" and Path(data).suffix not in YAML:
        raise InputError(f"data={data} is not a data-set YAML; name a .yaml file")
    check_data(data)
    data_images(data, split, task)
    data_yaml = yaml_of_data(data)
    shared = {
        "data": data,
        "sha256 of data": data_yaml and sha256(data_yaml),
        "split": split,
        **_from_checkpoints(opened, train),
        **train,
        **{f"sha256 of {key}": sha256(_file(train[key])) for key in WEIGHTS_KEYS if isinstance(train.get(key), str)},
        **package_versions(),
    }
    with locked(Path(out)):
        check_or_write_settings(Path(out), shared, {name: sha256(_file(model)) for name, model in named.items()})
        runs = run_all(named, data, split, seeds, Path(out), engine, train)
    refuse_unlike(runs)
    scores = {name: [run.score for run in runs if run.model == name] for name in named}
    resampled = {name: [run.resampled for run in runs if run.model == name] for name in named}
    return CompareResult(data, split, task, train, runs, paired_differences(scores, resampled, METRICS[task].name))


def refuse_unlike(runs: Sequence[SeedRun]) -> None:
    """Raise an error if runs trained with different batches, or a run has no score."""
    for run in runs:
        which = f"{run.model} with seed {run.seed}"
        if run.batch != runs[0].batch:  # Ultralytics halves it where memory runs out
            raise CompareError(
                f"{which} trained with batch {run.batch}, and others with {runs[0].batch}; "
                f"take batch={min(each.batch for each in runs)} and another out="
            )
        if not math.isfinite(run.score):
            raise CompareError(f"{which} has no score, so its training failed; look at its log, and leave it out")


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(seeds)
    if not found or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in found):
        raise InputError(f"seeds must be whole numbers from 0 such as 0,1,2, got {','.join(map(str, found)) or 'none'}")
    if len(set(found)) < len(found):
        raise InputError(f"seeds={','.join(map(str, found))}: a seed is listed twice; list it once")
    if len(found) > MAX_SEEDS:
        raise InputError(f"{len(found)} seeds are more than the exact test supports; use at most {MAX_SEEDS}")
    return found


def _checked_models(models: Sequence[str | Path]) -> dict[str, str]:
    named: dict[str, str] = {}
    for model in map(str, models):
        find_model(model)  # raises an error for a URL or an exported file
        name = Path(model).stem
        if name in named:
            raise InputError(f"{named[name]} and {model} would both be called {name}; rename one of them")
        named[name] = model
    if len(named) < 2:
        raise InputError("name two models or more, the baseline first, such as models=yolov8n.yaml,yolov8n-ela.yaml")
    return named


def _common_task(named: Mapping[str, str], opened: Mapping[str, Any]) -> str:
    tasks = {name: str(model.task) for name, model in opened.items()}
    if len({*tasks.values()}) > 1:
        found = ", ".join(f"{named[name]} has the task {task}" for name, task in tasks.items())
        raise InputError(f"the models must have the same task, but {found}")
    task = next(iter(tasks.values()))
    if task not in METRICS:
        raise InputError(f"the models have the task {task}, which is not supported")
    return task


def _checked_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    for key, why in RESERVED_KEYS.items():
        if key in keys:
            raise InputError(f"{key}= cannot be set in a comparison: {why}; leave it out")
    batch = keys.get("batch", 16)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch={batch} would differ between the models; use a fixed number of images")
    check_train_keys(keys)
    for key in WEIGHTS_KEYS:
        if isinstance(keys.get(key), str):
            find_model(keys[key])
    return dict(json.loads(json.dumps({**DEFAULTS, **keys, **FIXED}, default=str)))


def _from_checkpoints(opened: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the train keys that Ultralytics takes from the checkpoints."""
    found = {}
    for key in CHECKPOINT_KEYS:
        values = {name: model.overrides.get(key) or default_of(key) for name, model in opened.items()}
        if key not in train and len({str(value) for value in values.values()}) > 1:
            told = ", ".join(f"{name} with {value}" for name, value in values.items())
            raise InputError(f"{key} differs between the models: {told}; set it, such as {key}={default_of(key)}")
        found[key] = next(iter(values.values()))
    return found


def _file(model: str) -> Path:
    file = find_model(model)
    return file if file.suffix in YAML else find_weights(str(file)) or file
