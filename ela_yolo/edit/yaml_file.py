"""Reads a model YAML from its file, and says what is wrong with a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import yaml

from ela_yolo.errors import ModelYamlError

BOM = "\ufeff"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as Ultralytics chooses; they treat tabs differently


def read_model_yaml(file: Path) -> str:
    """Return the text of a model YAML, with its line ends unchanged.

    Raises:
        ModelYamlError: If the file cannot be read.
    """
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; save it as UTF-8"
        raise ModelYamlError(f"{file} cannot be read: {reason}") from None


def no_rows(name: str, part: str) -> str:
    """Return the message about a YAML without rows in one of its two lists."""
    return f"{name} is not a model YAML, or cut off: it has no rows under '{part}:'"


def yaml_reason(text: str, name: str, error: Exception) -> str:
    """Return why a text is not YAML, with the place and the remedy."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{name} is not YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark
    if mark.index >= len(text.rstrip()):
        last = text.rstrip().count("\n") + 1
        return f"{name} is no whole YAML: it ends in line {last}, within a row or a word; is it cut off?"
    place = f"{name}, line {mark.line + 1}"
    if text[mark.index : mark.index + 1] == "\t":
        return f"{place}: a tab where YAML wants spaces; replace it by spaces"
    return f"{place}, column {mark.column + 1}: {error.problem}; mend the YAML there"
