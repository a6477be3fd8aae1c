"""Reads and writes the text of a model YAML, and says what is wrong with one that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ela_yolo.edit.rows import PARTS, Row, rows_of
from ela_yolo.errors import ModelYamlError

BOM = "\ufeff"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as Ultralytics chooses; they treat tabs differently
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_HEADS = {  # a file whose last row is one of these was cut off
    *("C2f", "C3k2", "A2C2f", "C3", "C3Ghost", "C2", "C2fCIB", "C2fAttn", "RepNCSPELAN4", "ELAN1"),
    *("HGBlock", "RepC3", "ResNetLayer", "Bottleneck", "BottleneckCSP"),
    *("AIFI", "Concat", "Conv", "ImagePoolingAttn", "SPP", "nn.ConvTranspose2d", "nn.Upsample"),
}


def read_model_yaml(file: Path) -> str:
    """Return the text of a model YAML, with its line ends and the bytes that are not UTF-8 unchanged."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelYamlError(f"{file} cannot be read: {error.strerror}; choose another file, or fix this") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ModelYamlError(f"{file} is UTF-16 text, which Ultralytics does not read; save it as UTF-8")
    return content.decode(errors="surrogateescape")


def as_bytes(text: str) -> bytes:
    """Return the bytes of a text that ``read_model_yaml`` read."""
    return text.encode(errors="surrogateescape")


def printable(text: str) -> str:
    """Return a text with a mark in place of each byte that was not UTF-8."""
    return as_bytes(text).decode(errors="replace")


def readable(text: str) -> str:
    """Return a text without byte order mark, and with a blank for each character that YAML does not allow."""
    return _UNREADABLE.sub(" ", text.removeprefix(BOM))  # Ultralytics drops these characters


def load_yaml(text: str) -> Any:
    """Return what a YAML holds.

    Raises:
        yaml.YAMLError: If the text is not YAML.
    """
    return yaml.load(readable(text), Loader=LOADER)


def read_rows(text: str, name: str) -> tuple[Row, ...]:
    """Return the rows of a model YAML in the order of their layers."""
    try:
        config = load_yaml(text)
    except yaml.YAMLError as error:
        raise ModelYamlError(_reason(text, name, error)) from None
    for part in PARTS:
        if not isinstance(config, dict) or not isinstance(config.get(part), list) or not config[part]:
            raise ModelYamlError(f"{name} is not a model YAML, or is truncated: it has no rows under '{part}:'")
    rows = rows_of(config, lambda layer: f"{name}{_line_of(text, layer)}: layer {layer}", ModelYamlError)
    last = rows[-1].module
    if last in _NOT_HEADS or last in {row.module for row in rows[:-1]}:
        raise ModelYamlError(
            f"{name} ends in layer {len(rows) - 1} {last}, which is not a head such as Detect; is the file truncated?"
        )
    return rows


def whole_yaml(config: Mapping[str, Any]) -> str:
    """Return a model's mapping as a YAML with a line for each row.

    Raises:
        yaml.YAMLError: If the mapping has values that YAML cannot hold.
    """
    text = yaml.safe_dump({k: v for k, v in config.items() if k not in PARTS}, sort_keys=False, allow_unicode=True)
    for part in PARTS:
        text += f"{part}:\n" + "".join(f"  - {write_row(row)}\n" for row in config[part])
    return text


def write_row(row: Sequence[Any]) -> str:
    """Return a row as YAML in one line, with numbers that PyYAML reads back as numbers."""
    keys: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "width": float("inf")}
    return str(yaml.dump(list(row), Dumper=_NoAliases, **keys)).strip()


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _line_of(text: str, layer: int) -> str:
    """Return ``, line 12`` for the row of a layer; "" if the rows do not stand in the text one by one."""
    root: Any = yaml.compose(readable(text), Loader=LOADER)
    lists = {key.value: node for key, node in root.value}
    rows = [row for part in PARTS for row in (lists[part].value if part in lists else ())]
    return f", line {rows[layer].start_mark.line + 1}" if layer < len(rows) else ""


def _reason(text: str, name: str, error: Exception) -> str:
    """Return why a text is not YAML, with the place and the remedy."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{name} is not YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark
    if mark.index >= len(text.rstrip()):
        last = text.rstrip().count("\n") + 1
        return f"{name} is truncated: it ends in line {last}, within a row or a word"
    place = f"{name}, line {mark.line + 1}"
    if text[mark.index : mark.index + 1] == "\t":
        return f"{place}: a tab where YAML wants spaces; replace it by spaces"
    return f"{place}, column {mark.column + 1}: {error.problem}; correct the YAML there"
