"""The runs of a comparison, every model with every seed: what they share, which are finished, and who does the rest."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ela_yolo.errors import CompareError, InputError, plain
from ela_yolo.files import written_whole
from ela_yolo.one_run import RESULT

SETTINGS = "settings.json"
LOG = "log.txt"


@dataclass(frozen=True)
class SeedRun:
    """What one run gave, measured on the validation images with the weights of its last epoch.

    Attributes:
        model: The model's name without its ending.
        seed: The seed.
        map50: mAP50.
        map50_95: mAP50-95.
        precision: Mean over the classes, where F1 is best.
        recall: Likewise.
        classes: Class -> its mAP50-95; of those that the validation images show.
        epochs: mAP50-95 after each epoch.
        seconds: How long training and validation took.
        imgsz: Side of the images, in px.
        batch: Images a batch.
    """

    model: str
    seed: int
    map50: float
    map50_95: float
    precision: float
    recall: float
    classes: Mapping[str, float]
    epochs: tuple[float, ...]
    seconds: float
    imgsz: int
    batch: int


def sha256(file: str | Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def agree_on_settings(folder: Path, shared: Mapping[str, Any], models: Mapping[str, str]) -> None:
    """Make the folder of a comparison, or see that it holds runs that these can stand beside.

    Args:
        folder: Of the comparison.
        shared: What every run depends on.
        models: Name -> hash of its file. Others than before may join.

    Raises:
        InputError: If there are other things in the folder, or the settings differ.
    """
    file = folder / SETTINGS
    remedy = "name another folder with out="
    if file.is_file():
        before = json.loads(file.read_text())
        for key in sorted({*before["shared"], *shared}):
            old, new = (settings.get(key, "the default") for settings in (before["shared"], shared))
            if old != new:
                raise InputError(f"{folder} holds runs with {key}={old}, not {new}; {remedy}")
        for name, digest in before["models"].items():
            if models.get(name, digest) != digest:
                raise InputError(f"{folder} holds runs of another {name}; rename the file, or {remedy}")
        models = {**before["models"], **models}
    elif folder.exists() and (not folder.is_dir() or any(not each.name.startswith(".") for each in folder.iterdir())):
        raise InputError(f"{folder} is there, and is no comparison; {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as part:
        part.write_text(json.dumps({"shared": shared, "models": models}, indent=2))


def check_engine(engine: str | None, train: Mapping[str, Any]) -> None:
    """Find out whether runs can be done this way.

    Raises:
        InputError: If there is no such engine, or it does not go with ``device=``.
        CompareError: If Ray is not installed.
    """
    if engine is None:
        return
    if engine != "ray":
        raise InputError(f"engine={engine} is not known; leave it out, or take engine=ray")
    if str(train.get("device", "cpu")) != "cpu":
        raise InputError("with engine=ray it is Ray that gives each run its GPU; leave device= out, or take device=cpu")
    _import_ray()


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise CompareError("engine=ray needs Ray; pip install 'ela-yolo[ray]'") from None


def run_all(
    models: Mapping[str, str],
    data: str,
    seeds: Sequence[int],
    folder: Path,
    engine: str | None,
    train: Mapping[str, Any],
) -> tuple[SeedRun, ...]:
    """Return every model's run with every seed; only those that are not finished in ``folder`` are run.

    Args:
        models: Short name -> the name by which the host finds it.
        data: The data set's YAML.
        seeds: The seeds.
        folder: Of the comparison; run ``NAME-SEED`` lies in ``runs/NAME-SEED``.
        engine: None for one after the other, or ``ray``.
        train: The host's train keys.

    Raises:
        CompareError: If runs failed; all others have run before it is raised.
    """
    folder = folder.resolve()
    common: dict[str, Any] = {"data": data, "train": dict(train), "cwd": str(Path.cwd())}
    # Seed by seed, so that what is there after an interruption compares the models.
    jobs = [
        {**common, "name": name, "model": model, "seed": seed, "folder": str(folder / "runs" / f"{name}-{seed}")}
        for seed in seeds
        for name, model in models.items()
    ]
    left = [job for job in jobs if not (Path(job["folder"]) / RESULT).is_file()]
    finished = len(jobs) - len(left)
    if finished:
        print(f"{finished} of {len(jobs)} runs are finished in {folder}, and kept", flush=True)
    failures = []
    start = time.monotonic()
    engines: dict[str | None, Callable[..., Iterator[Any]]] = {None: _one_by_one, "ray": _on_ray}
    for count, (job, outcome) in enumerate(engines[engine](left), 1):
        head = f"{finished + count}/{len(jobs)} {job['name']} seed {job['seed']}:"
        rest = (time.monotonic() - start) / count * (len(left) - count)
        if "failure" in outcome:
            failures.append(f"{job['name']} with seed {job['seed']} failed: {outcome['failure']}")
            print(f"{head} failed, about {_duration(rest)} left", flush=True)
            continue
        file = Path(job["folder"]) / RESULT
        if not file.is_file():  # it ran on another machine
            file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(file) as part:
                part.write_text(json.dumps(outcome, indent=2))
        took, score = _duration(outcome["seconds"]), outcome["map50_95"]
        print(f"{head} mAP50-95 {score:.4f}, took {took}, about {_duration(rest)} left", flush=True)
    if failures:
        more = f" ({len(failures) - 1} more failed)" if failures[1:] else ""
        raise CompareError(f"{failures[0]}{more}; the same command again runs what is not finished")
    return tuple(_read(job) for job in jobs)


def _read(job: Mapping[str, Any]) -> SeedRun:
    found = json.loads((Path(job["folder"]) / RESULT).read_text())
    return SeedRun(job["name"], job["seed"], **{**found, "epochs": tuple(found["epochs"])})


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _one_by_one(jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    for job in jobs:
        yield job, run_job(job)


def _on_ray(jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Hand the jobs to the cluster that Ray finds (RAY_ADDRESS), or to one of this machine's."""
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
            except ray.exceptions.RayError as error:  # the machine is lost, and Ray's own retries were in vain
                yield job, {"failure": plain(error)}
    finally:
        if started:
            ray.shutdown()


def _resources(jobs: Sequence[Mapping[str, Any]], ray: Any) -> dict[str, float]:
    """Return what a run asks for: a GPU if there are any, else as many cores as the host takes threads."""
    from ultralytics.utils import NUM_THREADS

    if ray.cluster_resources().get("GPU") and jobs and "device" not in jobs[0]["train"]:
        return {"num_gpus": 1}
    largest = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    return {"num_cpus": min(NUM_THREADS, largest)}


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job in a fresh interpreter, from its start, and return its result, or ``{"failure": why}``."""
    folder = Path(job["folder"])
    log = folder / LOG
    try:
        if folder.exists():  # what is left of a run that was cut off
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ela_yolo.one_run"],
                cwd=job["cwd"],
                stdin=subprocess.PIPE,  # held open: the run ends when this process does
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                status = process.wait()
            finally:
                process.kill()
                process.wait()
    except OSError as error:
        return {"failure": f"{plain(error)}; see {log}"}
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = f"killed by signal {-status}" if status < 0 else plain(Exception(lines[-1] if lines else ""))
        return {"failure": f"{reason}; see {log}"}
    return dict(json.loads((folder / RESULT).read_text()))
