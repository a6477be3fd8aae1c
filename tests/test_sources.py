"""What every line of the code holds to: text is UTF-8 on every machine, and every child process has a time limit."""

import ast

import pytest
from conftest import REPO

SOURCES = [file for folder in ("ela_yolo", "tools", "examples") for file in sorted((REPO / folder).glob("**/*.py"))]
CHILDREN = {"run", "call", "check_call", "check_output"}  # of subprocess; Popen has no limit to give


def calls():
    """Every call in the code, with its place."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(REPO)}:{node.lineno}", node


def lacks_encoding(call):
    """Whether a call opens text, a file's or a child's, in whatever encoding this machine prefers."""
    name, keys = getattr(call.func, "attr", getattr(call.func, "id", "")), {key.arg for key in call.keywords}
    if "encoding" in keys:
        return False
    if name == "open":
        owner = getattr(getattr(call.func, "value", None), "id", None)
        mode = [each.value for each in call.args if isinstance(each, ast.Constant)][-1:] or ["r"]
        return owner not in ("archive", "os", "tarfile") and "b" not in mode[0]
    return name in ("read_text", "write_text") or (name in {*CHILDREN, "Popen"} and "text" in keys)


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("file.read_text()", True),
        ("file.write_text(text, encoding='utf-8')", False),
        ("open(file)", True),
        ("open('a.txt', 'w')", True),
        ("open(file, 'rb')", False),
        ("file.open('w')", True),
        ("file.open('rb')", False),
        ("file.open()", True),
        ("tarfile.open(name)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_the_search_for_encodings_finds_them(code, lacking):
    assert lacks_encoding(ast.parse(code).body[0].value) is lacking


def test_all_text_is_opened_as_utf_8():
    assert [place for place, call in calls() if lacks_encoding(call)] == []


def test_every_child_process_has_a_time_limit():
    started = {
        place: {key.arg for key in call.keywords}
        for place, call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in CHILDREN
        and getattr(call.func.value, "id", "") == "subprocess"
    }
    assert len(started) > 5 and [place for place, keys in started.items() if "timeout" not in keys] == []


def test_only_a_run_of_a_comparison_is_started_without_waiting_for_it():
    """Its time limit is that of its silence."""
    started = [place.partition(":")[0] for place, call in calls() if getattr(call.func, "attr", "") == "Popen"]
    assert started == ["ela_yolo/study/runs.py"]
