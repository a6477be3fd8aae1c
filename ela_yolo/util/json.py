"""Writes the JSON of this package's reports. NaN and infinity become null, because JSON has no word for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from ela_yolo.errors import InputError
from ela_yolo.util.files import atomic_write


def to_json(content: Any) -> str:
    """Return indented JSON that every parser accepts.

    Args:
        content: Mappings, sequences, texts, numbers, booleans and None. Any other object becomes its ``str()``.

    Examples:
        >>> to_json({"error": float("nan"), "limit": float("inf"), "file": Path("best.onnx")}).split()
        ['{', '"error":', 'null,', '"limit":', 'null,', '"file":', '"best.onnx"', '}']
    """
    return json.dumps(_finite(content), indent=2, default=str, allow_nan=False)


def check_json_name(file: str | Path) -> Path:
    """Return the file of a report if its name is fit: a slip such as ``save=best.pt`` must not replace a model."""
    target = Path(file)
    if target.suffix != ".json" or target.is_dir():
        raise InputError(f"save={target}: the report is a .json file; choose a name ending in .json")
    if not target.parent.is_dir():
        raise InputError(f"save={target}: there is no folder {target.parent}; create it first")
    return target


def write_json(file: Path, content: Any) -> None:
    """Write JSON to a file, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_write(file) as part:
        part.write_text(to_json(content), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
