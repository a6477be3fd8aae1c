"""The folder of a comparison: one process at a time may use it, and all of its runs have the same settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ela_yolo.errors import CompareError, InputError
from ela_yolo.host.train_keys import default_of
from ela_yolo.study.worker import SCHEMA
from ela_yolo.util.json import write_json

SETTINGS = "settings.json"
LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a comparison, and lock it for this process within a ``with`` block."""
    remedy = "name another folder with out="
    if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        raise InputError(f"{folder} exists and is not the folder of a comparison; {remedy}")
    lock = FileLock(folder / LOCK)  # the system ends the lock with this process, however it ends
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CompareError(f"another process runs a comparison in {folder}; wait until it ends, or {remedy}") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; {remedy}") from error
    try:
        yield
    finally:
        lock.release()


def _is_ours(folder: Path) -> bool:
    return (folder / SETTINGS).is_file() or all(each.name.startswith(".") for each in folder.iterdir())


def check_or_write_settings(folder: Path, shared: Mapping[str, Any], models: Mapping[str, str]) -> None:
    """Write the settings of a comparison into its folder, or check that they equal those of the runs in it.

    Args:
        folder: The folder of the comparison.
        shared: The settings of all runs.
        models: Name -> hash of the model's file. New models may be added later.
    """
    file = folder / SETTINGS
    remedy = "name another folder with out="
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before.get("schema") != SCHEMA:
            raise InputError(f"{folder} holds runs of another version of ela-yolo; {remedy}")
        for key in sorted({*before["shared"], *shared}):
            default = default_of(key)
            old, new = (settings.get(key, default) for settings in (before["shared"], shared))
            if old != new:
                raise InputError(f"{folder} holds runs with {key}={old}, not {new}; {remedy}")
        for name, digest in before["models"].items():
            if models.get(name, digest) != digest:
                raise InputError(f"{folder} holds runs of another {name}; rename the file, or {remedy}")
        models = {**before["models"], **models}
    write_json(file, {"schema": SCHEMA, "shared": shared, "models": models})
