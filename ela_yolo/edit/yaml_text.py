"""Reads a model YAML with the places of its rows in the text, so that the rows can be edited in place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ela_yolo.edit.yaml_file import BOM, LOADER, no_rows, yaml_reason
from ela_yolo.errors import ModelYamlError

_NOT_HEADS = {  # a file whose last row is one of these was cut off
    *("C2f", "C3k2", "A2C2f", "C3", "C3Ghost", "C2", "C2fCIB", "C2fAttn", "RepNCSPELAN4", "ELAN1"),
    *("HGBlock", "RepC3", "ResNetLayer", "Bottleneck", "BottleneckCSP"),
    *("AIFI", "Concat", "Conv", "ImagePoolingAttn", "SPP", "nn.ConvTranspose2d", "nn.Upsample"),
}


@dataclass(frozen=True)
class Span:
    """A number in the text: its value, and its place ``text[start:end]``. For rows without a text: a unique place."""

    value: int
    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """One layer of the model.

    Attributes:
        layer: The layer number, counted over backbone and head.
        part: The list of the row, ``backbone`` or ``head``.
        module: The name in the third column.
        sources: The numbers in the first column, ``from``.
        repeats: The number in the second column, before the model's depth applies; 1 if there is none.
        args: The whole numbers of the fourth column in their places, and None for every other arg.
        number: The layer number in the comment after the row, ``# 21 (P5)`` or ``# F5 (21)``; None if the comments of
            the file do not number its layers correctly.
        start: The place in the text where the row's line begins.
        bracket: The place of its ``[``.
        end: The place after its last line, line end included.
    """

    layer: int
    part: str
    module: str
    sources: tuple[Span, ...]
    repeats: int
    args: tuple[int | None, ...]
    number: Span | None
    start: int
    bracket: int
    end: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The numbers of the layers that the row reads; -1 is the image."""
        return tuple(span.value if span.value >= 0 else self.layer + span.value for span in self.sources)


def read_rows(text: str, name: str) -> tuple[Row, ...]:
    """Return the rows of a model YAML in the order of their layers.

    Raises:
        ModelYamlError: If the text is not YAML or not a whole model, or a row is not ``[from, repeats, module, args]``
            on a line of its own.
    """
    try:
        root = yaml.compose(text.removeprefix(BOM), Loader=LOADER)
    except yaml.YAMLError as error:
        raise ModelYamlError(yaml_reason(text, name, error)) from None
    entries = root.value if isinstance(root, yaml.MappingNode) else []
    lists = {key.value: node for key, node in entries if key.value in ("backbone", "head")}
    for part in ("backbone", "head"):
        node = lists.get(part)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise ModelYamlError(no_rows(name, part))
    nodes = [(part, node) for part in ("backbone", "head") for node in lists[part].value]
    base = len(BOM) * text.startswith(BOM)  # the loaders do not agree on whether it counts
    rows = tuple(_read_row(text, base, name, part, layer, node) for layer, (part, node) in enumerate(nodes))
    if len({row.start for row in rows}) < len(rows):
        raise ModelYamlError(f"{name}: two rows stand in one line or are one by a YAML alias; write each on its own")
    spans = [span for row in rows for span in row.sources]
    if len({span.start for span in spans}) < len(spans):
        raise ModelYamlError(f"{name}: two rows share their 'from' by a YAML alias; write its numbers in each")
    last = rows[-1].module
    if last in _NOT_HEADS or last in {row.module for row in rows[:-1]}:
        raise ModelYamlError(
            f"{name} ends in layer {len(rows) - 1} {last}, which is no head like Detect; is it cut off?"
        )
    if any(row.number and row.number.value != row.layer for row in rows):
        return tuple(replace(row, number=None) for row in rows)  # the comments count something else, or are out of date
    return rows


def _read_row(text: str, base: int, name: str, part: str, layer: int, node: yaml.Node) -> Row:
    where = f"{name}, line {node.start_mark.line + 1}: layer {layer}"
    columns: Sequence[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else ()
    if not isinstance(node, yaml.SequenceNode) or len(columns) != 4 or not isinstance(columns[2], yaml.ScalarNode):
        raise ModelYamlError(f"{where} is not a row [from, repeats, module, args]")
    bracket, close = base + node.start_mark.index, base + node.end_mark.index
    start = text.rfind("\n", 0, bracket) + 1
    end = text.find("\n", close) + 1 or len(text)
    after = text[close:end]
    if not node.flow_style or not re.fullmatch(r"\s*-\s+", text[start:bracket]) or not re.match(r"\s*(#|$)", after):
        raise ModelYamlError(f"{where} is not on a line of its own; write it as - [from, repeats, module, args]")
    source = columns[0]
    comment = re.match(r"\s*#\s*(\w+ \()?(\d+)(?(1)\)|(?![\w.]))", after)
    return Row(
        layer=layer,
        part=part,
        module=columns[2].value,
        sources=tuple(
            _read_source(text, base, where, layer, item)
            for item in (source.value if isinstance(source, yaml.SequenceNode) else [source])
        ),
        repeats=_whole_number(columns[1]) or 1,
        args=tuple(map(_whole_number, columns[3].value)) if isinstance(columns[3], yaml.SequenceNode) else (),
        number=Span(int(comment[2]), close + comment.start(2), close + comment.end(2)) if comment else None,
        start=start,
        bracket=bracket,
        end=end,
    )


def _whole_number(node: yaml.Node) -> int | None:
    written = node.value if node.tag == "tag:yaml.org,2002:int" else ""
    return int(written) if re.fullmatch(r"-?[0-9]{1,9}", written) else None


def _read_source(text: str, base: int, where: str, layer: int, node: yaml.Node) -> Span:
    if node.tag != "tag:yaml.org,2002:int" or not re.fullmatch(r"-?\d+", node.value):
        raise ModelYamlError(f"{where} reads {node.value!r}, which is not a layer number")
    value = int(node.value)
    if not -max(layer, 1) <= value < layer:
        before = f"layers 0 to {layer - 1} come" if layer else "the image comes (-1)"
        raise ModelYamlError(f"{where} reads {value}, but only {before} before it")
    span = Span(value, base + node.start_mark.index, base + node.end_mark.index)
    if text[span.start : span.end] != str(value):  # an anchor, a tag or a leading zero
        raise ModelYamlError(f"{where} reads {text[span.start : span.end]}; write the plain number {value}")
    return span


def insert_lines(
    text: str, rows: Sequence[Row], numbers: Mapping[Span, int], stages: Iterable[int], new: Sequence[Any]
) -> str:
    """Return the text with numbers replaced and the row of a block after each stage; the rest stays byte for byte."""
    return _edit(text, numbers, {rows[stage].end: _new_line(text, rows[stage], new) for stage in stages}, ())


def drop_lines(text: str, rows: Sequence[Row], numbers: Mapping[Span, int], layers: Iterable[int]) -> str:
    """Return the text with numbers replaced and the rows of some layers dropped; the rest stays byte for byte."""
    return _edit(text, numbers, {}, [_whole_line(text, rows[layer]) for layer in layers])


def write_row(row: Sequence[Any]) -> str:
    """Return a row as YAML in one line, with numbers that PyYAML reads back as numbers."""
    written = yaml.safe_dump(list(row), default_flow_style=True, sort_keys=False, width=float("inf"))
    return str(written).strip()


def _new_line(text: str, stage: Row, new: Sequence[Any]) -> str:
    line = text[stage.start : stage.end]
    ending = line[len(line.rstrip("\r\n")) :]
    row = text[stage.start : stage.bracket] + write_row(new)
    return row + ending if ending else ("\r\n" if "\r\n" in text else "\n") + row


def _whole_line(text: str, row: Row) -> tuple[int, int]:
    """Return the place of a row's lines with one line end: the next one, or at the end of the file the one before."""
    if text[row.end - 1] == "\n":
        return row.start, row.end
    return row.start - (2 if text[: row.start].endswith("\r\n") else 1), row.end


def _edit(
    text: str, numbers: Mapping[Span, int], inserted: Mapping[int, str], dropped: Iterable[tuple[int, int]]
) -> str:
    """Return the text with numbers replaced, lines inserted at places, and places ``(start, end)`` dropped."""
    edits = [(span.start, span.end, str(value)) for span, value in numbers.items()]
    edits += [(place, place, line) for place, line in inserted.items()]
    edits += [(start, end, "") for start, end in dropped]
    result, done = [], 0
    for start, end, new in sorted(edits):
        result += [text[done:start], new]
        done = max(done, end)
    return "".join([*result, text[done:]])
