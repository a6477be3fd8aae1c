"""JSON of the package: null for what is not a finite number, and files that are whole or not there."""

import json

import pytest

from ela_yolo.util.json import to_json, write_json


def test_what_is_no_finite_number_is_null_wherever_it_stands():
    text = to_json({"a": float("nan"), "b": [1.5, float("-inf"), (float("inf"),)], "c": {"d": float("nan")}, "e": None})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, [None]],
        "c": {"d": None},
        "e": None,
    }


def test_a_file_is_atomic_write_or_stays_as_it_was(tmp_path):
    file = tmp_path / "report.json"
    write_json(file, {"name": "Zürich 苏黎世"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Zürich 苏黎世"}
    circle: dict[str, object] = {}
    circle["itself"] = circle
    with pytest.raises(RecursionError):
        write_json(file, circle)
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Zürich 苏黎世"}
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]
