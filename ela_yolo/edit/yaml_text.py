"""Edits the rows of a model YAML in its text, so that everything else stays byte for byte.

A row may be written as ``- [-1, 1, Conv, [64, 3, 2]]``, over several lines, in a list in brackets, or in block style.
The parser's events tell where each row and each number stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ela_yolo.edit.renumbering import Plan, edit_mapping, renumbered
from ela_yolo.edit.rows import PARTS, Row
from ela_yolo.edit.yaml_file import BOM, LOADER, load_yaml, readable, whole_yaml, write_row

_COMMENT = re.compile(r"[ \t,\]]*#\s*(\w+ \()?(\d+)(?(1)\)|(?![\w.]))")  # "# 21 (P5)", "# F5 (21)"


@dataclass
class _Node:
    """A part of a YAML at ``text[start:end]``.

    Attributes:
        kind: The kind of the event: ``ScalarEvent``, ``SequenceStartEvent``, ``MappingStartEvent`` or ``AliasEvent``.
        start: Its first place.
        end: The place after it, without comments.
        column: The column of its first place.
        flow: Whether it is a list or a mapping in brackets.
        named: Whether it is an alias or has an anchor.
        items: The items of a list; the keys and values of a mapping in turn.
    """

    kind: str
    start: int
    end: int
    column: int
    flow: bool
    named: bool
    items: list[_Node] = field(default_factory=list)

    def walk(self) -> Iterator[_Node]:
        """Yield this node and all nodes in it."""
        yield self
        for item in self.items:
            yield from item.walk()


def edit_text(text: str, rows: Sequence[Row], plan: Plan, new: Sequence[Any] | None) -> str:
    """Return the text of a model YAML after a change of its rows.

    Rows that share anything by an alias are written anew, on one line, if one of them changes. A YAML whose lists
    themselves come from an alias or a merge is written anew as a whole.

    Args:
        text: The text, which is a YAML.
        rows: Its rows.
        plan: The change.
        new: The row that is inserted after each stage of the plan; None if the plan removes rows.
    """
    config = load_yaml(text)
    wanted = edit_mapping(config, rows, plan, new)
    nodes = _row_nodes(text)
    if len(nodes) == len(rows):
        edited = _Editor(text, rows, plan, new).edit(nodes, [*config["backbone"], *config["head"]])
        if _loads_as(edited, wanted):
            return edited
    return whole_yaml(wanted)


def _loads_as(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return repr(load_yaml(text)) == repr(wanted)  # which tells 1 from True, and NaN is NaN
    except yaml.YAMLError:
        return False


def _row_nodes(text: str) -> list[tuple[_Node, _Node]]:
    """Return the list that a row stands in and the row, for each row; [] if a list does not stand in the text."""
    base = len(BOM) * text.startswith(BOM)  # the loaders do not agree on whether it counts
    events = yaml.parse(readable(text), Loader=LOADER)
    root = next((_node(event, events, base) for event in events if isinstance(event, yaml.NodeEvent)), None)
    pairs = [] if root is None or root.kind != "MappingStartEvent" else root.items
    found = {}
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        name = text[key.start : key.end].strip("'\"")
        if name in PARTS and value.kind == "SequenceStartEvent":
            found[name] = value
    return [(found[part], row) for part in PARTS for row in found[part].items] if len(found) == len(PARTS) else []


def _node(event: Any, events: Iterator[Any], base: int) -> _Node:
    """Return the node that begins with an event, and take its other events."""
    start, end = base + event.start_mark.index, base + event.end_mark.index
    named = isinstance(event, yaml.AliasEvent) or event.anchor is not None
    flow = bool(getattr(event, "flow_style", False))
    node = _Node(type(event).__name__, start, end, event.start_mark.column, flow, named)
    if isinstance(event, yaml.CollectionStartEvent):
        last: Any = next(events)
        while not isinstance(last, yaml.CollectionEndEvent):
            node.items.append(_node(last, events, base))
            last = next(events)
        # In block style the end is where the next token begins, after comments.
        close: Any = last.end_mark
        node.end = base + close.index if flow else node.items[-1].end if node.items else end
    return node


class _Editor:
    """Edits one text; the edits are collected as ``(start, end, new text)``."""

    def __init__(self, text: str, rows: Sequence[Row], plan: Plan, new: Sequence[Any] | None) -> None:
        self._text, self._rows, self._plan, self._new = text, rows, plan, new
        self._dropped = frozenset(plan.blocks if new is None else ())
        self._edits: list[tuple[int, int, str]] = []

    def edit(self, row_nodes: Sequence[tuple[_Node, _Node]], written: Sequence[Any]) -> str:
        """Return the text with all edits; for each row its nodes are given, and what it says."""
        by_layer = {layer: node for layer, (_, node) in enumerate(row_nodes)}
        anew, comments = self._to_write_anew(by_layer), self._comments(by_layer)
        for layer, (nodes, node) in enumerate(row_nodes):
            if layer in self._dropped:
                self._drop(nodes, node)
                continue
            if layer in anew:
                row = renumbered(written[layer], self._rows[layer], self._plan)
                self._edits.append((node.start, node.end, write_row(row)))
            else:
                for place, number in enumerate(self._numbers(node)):
                    if (layer, place) in self._plan.numbers:
                        self._edits.append((number.start, number.end, str(self._plan.numbers[layer, place])))
            if layer in comments:
                self._edits.append((*comments[layer], str(self._plan.layer_map[layer])))
            if layer in self._plan.stages:
                self._insert(nodes, node)
        result, done = [], 0
        for start, end, new in sorted(self._edits):
            result += [self._text[done:start], new]
            done = max(done, end)
        return "".join([*result, self._text[done:]])

    def _numbers(self, row: _Node) -> list[_Node]:
        source = row.items[0] if row.items else row
        return source.items if source.kind == "SequenceStartEvent" else [source]

    def _to_write_anew(self, nodes: Mapping[int, _Node]) -> set[int]:
        """Return the rows that are not changed number by number: with aliases, anchors, numbers such as ``!!int 4``."""
        shared = {layer for layer, node in nodes.items() if any(each.named for each in node.walk())}
        changed = {layer for layer, _ in self._plan.numbers}
        anew = shared if shared & (changed | self._dropped) else set()
        for layer in changed:
            texts = (self._text[number.start : number.end] for number in self._numbers(nodes[layer]))
            if not all(re.fullmatch(r"-?\d+", text) for text in texts):
                anew = anew | {layer}
        return anew - self._dropped

    def _comments(self, nodes: Mapping[int, _Node]) -> dict[int, tuple[int, int]]:
        """Return the places of the layer numbers in comments; none if a number there is not that of its layer.

        The comment of a line is about the first row in it.
        """
        lines: dict[int, tuple[int, int]] = {}
        for layer, node in nodes.items():
            line = self._line_start(node.end)
            lines[line] = (lines.get(line, (layer, 0))[0], node.end)
        found = {}
        for layer, end in lines.values():
            comment = _COMMENT.match(self._text, end, self._line_end(end))
            if comment and int(comment[2]) != layer:
                return {}  # the comments count something else, or are out of date
            if comment and self._plan.layer_map.get(layer, layer) != layer:
                found[layer] = comment.span(2)
        return found

    def _insert(self, nodes: _Node, stage: _Node) -> None:
        text, new = self._text, write_row(self._new or ())
        line, end = self._line_start(stage.start), self._line_end(stage.end)
        next_line = self._next_line(end)
        ending = text[end:next_line] or ("\r\n" if "\r\n" in text else "\n")
        if not nodes.flow:
            dash = self._dash_line(nodes, stage)
            gap = re.match(r" *-[ \t]+", text[dash : stage.start])
            row = (gap[0] if gap and dash == line else " " * nodes.column + "- ") + new
            self._edits.append((next_line, next_line, row + ending if next_line > end else ending + row))
            return
        indent = re.sub(r"[^\t]", " ", text[line : stage.start])
        own_line = not text[line : stage.start].strip(" \t[")
        if own_line and re.match(r"[ \t]*,[ \t]*(#|$)", text[stage.end : end]):
            self._edits.append((next_line, next_line, f"{indent}{new},{ending}"))
        elif not own_line or not self._is_last(nodes, stage):
            self._edits.append((stage.end, stage.end, f", {new}"))
        elif "#" in text[stage.end : end]:
            self._edits.append((stage.end, stage.end, ","))
            self._edits.append((next_line, next_line, f"{indent}{new}{ending}"))
        else:
            self._edits.append((stage.end, stage.end, f",{ending}{indent}{new}"))

    def _drop(self, nodes: _Node, row: _Node) -> None:
        text = self._text
        line, end = self._line_start(row.start), self._line_end(row.end)
        if not nodes.flow:
            self._drop_lines(self._dash_line(nodes, row), end)
            return
        place = next(place for place, each in enumerate(nodes.items) if each is row)
        before = nodes.items[place - 1].end if place else line
        between = text[before : row.start]
        rest = re.match(r"[ \t]*(,?)[ \t]*(#.*)?$", text[row.end : end])
        if place and "#" not in between and ("\n" not in between or self._is_last(nodes, row)):
            self._edits.append((before, row.end, ""))
        elif rest and not text[line : row.start].strip(" \t,"):
            if place and not rest[1] and text[before] == ",":
                self._edits.append((before, before + 1, ""))
            self._drop_lines(line, end)
        elif rest:  # after the opening bracket; a comment after the row goes with it
            self._edits.append((row.start, end, ""))
        else:
            comma = re.match(r"\s*,[ \t]*", text[row.end :])
            self._edits.append((row.start, row.end + (comma.end() if comma else 0), ""))

    def _is_last(self, nodes: _Node, row: _Node) -> bool:
        """Return whether a row is the last one in its brackets, without a comma after it."""
        return row is nodes.items[-1] and not re.match(r"\s*(#.*\s*)*,", self._text[row.end :])

    def _drop_lines(self, start: int, end: int) -> None:
        """Drop whole lines with one line end: the next one, or at the end of the file the one before."""
        if end == len(self._text):
            start -= len(re.search(r"(\r?\n)?$", self._text[:start])[0])  # type: ignore[index]
        self._edits.append((start, self._next_line(end), ""))

    def _dash_line(self, nodes: _Node, item: _Node) -> int:
        """Return where the line begins that has the dash of an item in a list of block style."""
        line = self._line_start(item.start)
        dash = " " * nodes.column + "-"
        while line > 0 and not self._text.startswith(dash, line):
            line = self._line_start(line - 1)
        return line

    def _line_start(self, place: int) -> int:
        return max(self._text.rfind("\n", 0, place), self._text.rfind("\r", 0, place)) + 1

    def _line_end(self, place: int) -> int:
        found = re.compile(r"[\r\n]").search(self._text, place)
        return found.start() if found else len(self._text)

    def _next_line(self, line_end: int) -> int:
        return line_end + len(re.compile(r"(\r\n|\r|\n)?").match(self._text, line_end)[0])  # type: ignore[index]
