"""The runs of a comparison, every model with every seed: keeps those that are finished, and starts the others."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ela_yolo.errors import CompareError, InputError
from ela_yolo.host.calls import cpu_threads, packages_folder
from ela_yolo.study.worker import RESULT, TRAINED
from ela_yolo.util.console import say
from ela_yolo.util.installer import installer
from ela_yolo.util.json import write_json
from ela_yolo.util.text import one_line

LOG = "log.txt"


@dataclass(frozen=True)
class SeedRun:
    """The scores of one run, with the weights of the last epoch.

    Attributes:
        model: The name of the model, without its ending.
        seed: The seed.
        score: The main metric of the task.
        without_attention: The main metric with the gates of all blocks held constant at their mean over the images, per
            channel; NaN for a model without blocks, or with blocks that are not factors of their input.
        metrics: All metrics of Ultralytics, by their keys.
        classes: Class -> the main metric, for the classes in the images; empty if the task has no such metric.
        sizes: Size of objects -> AP at IoU 0.5 to 0.95 as COCO counts it; NaN if there is no such object. The sizes are
            ``small`` (up to 32² px in the image), ``medium`` (up to 96² px) and ``large``. Empty for other tasks than
            detection.
        objects: Size of objects -> the number of them in the images.
        resampled: The main metric of bootstrap draws of the images; the draws are the same in every run. Empty if the
            task has no statistics of each image.
        epochs: The main metric after each epoch, on the images of the split ``val``.
        parameters: The number of the model's parameters.
        gflops: The GFLOPs of an image of 640 px, as Ultralytics counts them.
        seconds: The duration of training and validation, in s.
        imgsz: The side of the images, in px.
        batch: The number of images in a batch.
    """

    model: str
    seed: int
    score: float
    without_attention: float
    metrics: Mapping[str, float]
    classes: Mapping[str, float]
    sizes: Mapping[str, float]
    objects: Mapping[str, int]
    resampled: tuple[float, ...]
    epochs: tuple[float, ...]
    parameters: int
    gflops: float
    seconds: float
    imgsz: int
    batch: int


def check_engine(engine: str | None, train: Mapping[str, Any]) -> None:
    """Check that an engine can do the runs."""
    if engine is None:
        return
    if engine != "ray":
        raise InputError(f"engine={engine} is unknown; leave it out, or use engine=ray")
    if str(train.get("device", "cpu")) != "cpu":
        raise InputError("with engine=ray Ray assigns the GPUs; leave device= out, or use device=cpu")
    _import_ray()


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise CompareError(f"engine=ray needs Ray: {installer('install', 'ray[tune]')}") from None


def run_all(
    models: Mapping[str, str],
    data: str,
    split: str,
    seeds: Sequence[int],
    folder: Path,
    engine: str | None,
    train: Mapping[str, Any],
) -> tuple[SeedRun, ...]:
    """Start the runs that are not finished in ``folder``, and return the runs of all models with all seeds.

    Args:
        models: Name -> model YAML or checkpoint.
        data: The data set.
        split: The split of the data set that the trained models are measured on.
        seeds: The seeds.
        folder: The folder of the comparison; a run lies in ``runs/NAME-SEED``.
        engine: None for one after the other, or ``ray``.
        train: The train keys of Ultralytics.
    """
    folder = folder.resolve()
    common: dict[str, Any] = {
        "data": data,
        "split": split,
        "train": dict(train),
        "cwd": str(Path.cwd()),
        "packages": packages_folder(),
    }
    # Seed by seed, so that all models have the same seeds after an interruption.
    jobs = [
        {**common, "name": name, "model": model, "seed": seed, "folder": str(folder / "runs" / f"{name}-{seed}")}
        for seed in seeds
        for name, model in models.items()
    ]
    left = [job for job in jobs if not (Path(job["folder"]) / RESULT).is_file()]
    finished = len(jobs) - len(left)
    if finished:
        say(f"{finished} of {len(jobs)} runs are finished in {folder}, and kept")
    failures = []
    start = time.monotonic()
    engines: dict[str | None, Callable[..., Iterator[Any]]] = {None: _one_by_one, "ray": _on_ray}
    for count, (job, outcome) in enumerate(engines[engine](left), 1):
        head = f"{finished + count}/{len(jobs)} {job['name']} seed {job['seed']}:"
        rest = (time.monotonic() - start) / count * (len(left) - count)
        if "failure" in outcome:
            failures.append(f"{job['name']} with seed {job['seed']} failed: {outcome['failure']}")
            say(f"{head} failed, about {_duration(rest)} left")
            continue
        file = Path(job["folder"]) / RESULT
        if not file.is_file():  # it ran on another machine
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, outcome)
        took, score = _duration(outcome["seconds"]), outcome["score"]
        say(f"{head} {score:.4f}, took {took}, about {_duration(rest)} left")
    if failures:
        more = f" ({len(failures) - 1} more failed)" if failures[1:] else ""
        raise CompareError(f"{failures[0]}{more}; run the same command again to finish the rest")
    return tuple(_read(job) for job in jobs)


def _read(job: Mapping[str, Any]) -> SeedRun:
    found = _result(Path(job["folder"]))
    found.pop("schema", None)
    series = {key: tuple(found[key]) for key in ("resampled", "epochs")}
    return SeedRun(job["name"], job["seed"], **{**found, **series})


def _result(folder: Path) -> dict[str, Any]:
    """Return the result that a run wrote, with NaN where it wrote null."""
    return dict(_with_nan(json.loads((folder / RESULT).read_text(encoding="utf-8"))))


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_nan(each) for each in value]
    return math.nan if value is None else value


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _one_by_one(jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    for job in jobs:
        yield job, run_job(job)


def _on_ray(jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Run the jobs on the cluster that Ray finds (RAY_ADDRESS), or on one that it starts on this machine."""
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    try:
        remote = ray.remote(**_resources(jobs, ray))(run_job)
        waiting = {remote.remote(job): job for job in jobs}
        while waiting:
            (ready,), _ = ray.wait([*waiting], num_returns=1)
            job = waiting.pop(ready)
            try:
                yield job, ray.get(ready)
            except ray.exceptions.RayError as error:  # the machine is lost, and Ray's retries failed
                yield job, {"failure": one_line(error)}
    finally:
        if started:
            ray.shutdown()


def _resources(jobs: Sequence[Mapping[str, Any]], ray: Any) -> dict[str, float]:
    """Return the resources of a run: a GPU if the cluster has any, else a core for each thread of Ultralytics."""
    if ray.cluster_resources().get("GPU") and jobs and "device" not in jobs[0]["train"]:
        return {"num_gpus": 1}
    largest = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    return {"num_cpus": min(cpu_threads(), largest)}


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job from its start in a new interpreter, and return its result, or ``{"failure": reason}``.

    The interpreter runs in the user's current folder, so that relative paths are right. ``-m`` puts this folder on its
    module path, so that a user's block may be a module there.
    """
    folder = Path(job["folder"])
    log = folder / LOG
    try:
        if folder.exists() and not (folder / TRAINED).is_file():  # an interrupted training left it
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ela_yolo.study.worker"],
                cwd=job["cwd"],
                env={**os.environ, "ELA_YOLO_AUTOLOAD": "1"},
                stdin=subprocess.PIPE,  # stays open: the run ends when this process ends
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                assert process.stdin is not None
                process.stdin.write(f"{json.dumps(job)}\n".encode())
                process.stdin.flush()
                status = process.wait()
            finally:
                process.kill()
                process.wait()
    except OSError as error:
        return {"failure": f"{one_line(error)}; see {log}"}
    if status:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = f"killed by signal {-status}" if status < 0 else one_line(Exception(lines[-1] if lines else ""))
        return {"failure": f"{reason}; see {log}"}
    return _result(folder)
