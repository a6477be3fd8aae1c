"""Loads checkpoints, and checks before that that the ELA class in one can be imported."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from ela_yolo.ela import ELA
from ela_yolo.errors import CheckpointError
from ela_yolo.host.blocks import known_blocks
from ela_yolo.host.unknown_modules import block_in
from ela_yolo.util.text import one_line


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, which Ultralytics downloads if it is one of its own."""
    from ultralytics.nn.tasks import torch_safe_load

    check_classes(file)
    try:
        checkpoint = torch_safe_load(file)[0]
        checkpoint.get("ema")
    except Exception as error:  # Ultralytics reports damage by many types
        raise unreadable(file, error) from error
    return dict(checkpoint)


def unreadable(file: Path, error: Exception) -> CheckpointError:
    """Return the error of a checkpoint that Ultralytics could not read."""
    if not file.is_file():
        return CheckpointError(f"{file} was not found and could not be downloaded; put the file here")
    return CheckpointError(f"{file} cannot be read as a checkpoint: {one_line(error).partition(' (')[0]}")


def check_classes(file: Path) -> None:
    """Check that a checkpoint holds no ELA class of a changed Ultralytics.

    A file that is missing or damaged passes: reading it raises the error.
    """
    from ultralytics import utils

    if getattr(utils, "SAFE_LOAD", False):  # then no class that a file names may be imported
        return
    for module, name in sorted(_class_names(file)):
        if block_in(name, known_blocks()) == "ELA" and not _can_import(module, name):
            raise CheckpointError(
                f"{file} holds the class {module}.{name} of a modified Ultralytics, which is not installed here; save "
                "the state dict of its model where it is, put ELA rows into its YAML, and load the state dict into that"
            )


def _class_names(file: Path) -> set[tuple[str, str]]:
    """Return the classes and functions that a checkpoint names: (module, name)."""
    try:
        with zipfile.ZipFile(file) as archive:
            record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = pickletools.genops(archive.read(record))
            return {
                (module, name)
                for operation, arg, _ in operations
                if operation.name == "GLOBAL"
                for module, name in [str(arg).split(" ")]
            }
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError):
        return set()


def _can_import(module: str, name: str) -> bool:
    """Return whether loading a checkpoint would find a class, which is looked up in the same way."""
    try:
        found = pickle.Unpickler(io.BytesIO()).find_class(module, name)
    except Exception:  # an import runs the module's code, which may raise anything
        return False
    return found is not ELA or module == ELA.__module__  # registering puts ELA in the place of such a class
