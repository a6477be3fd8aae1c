"""Whatever a YAML or a row holds, only errors of this package come out of what reads it."""

from pathlib import Path

import pytest
import ultralytics
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.nn.tasks import parse_model

import ela_yolo
from ela_yolo import ELAError, RowError

ULTRALYTICS = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
TEXTS = [ULTRALYTICS.read_text(), (REPO / "cfg/yolov8-ela.yaml").read_text()]
PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["[", "]", "{", "}", ":", "- ", "\n", "\t", "#", "&a ", "*a ", "!!python/object ", "|", "\ufeff", "-1"]
    ),
    st.sampled_from(["backbone:", "head:", "ELA", "null", "1e999", "0x", "2001-99-99", "<<: *a", "---\n", "...\n"]),
)


@st.composite
def broken(draw):
    """A model YAML with pieces put in, taken out and doubled."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        text = text[:start] + draw(PIECES) * draw(st.integers(1, 2)) + text[end:]
    return text


@settings(max_examples=150)
@given(st.one_of(broken(), st.text(), st.binary()))
def test_insert_on_any_text(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "yolov8.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    for function in (ela_yolo.insert, ela_yolo.remove, ela_yolo.layer_map):
        said = "one line"
        try:
            function(file)
        except ELAError as error:
            said = str(error)
        assert len(said.splitlines()) == 1


LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 20), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from(["T", "B", "S", "L", "paper", "identity", "ch", "f", "n", "m", "args", "c2", "nc", "None"]),
)
KEYS = st.one_of(st.sampled_from(["variant", "gate", "kernel_size", "groups", "num_groups"]), LEAVES)
ARGS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=4))


@settings(max_examples=500)
@given(args=ARGS, source=st.one_of(st.just(-1), LEAVES), repeats=st.one_of(st.just(1), LEAVES))
def test_the_parser_on_any_row(args, source, repeats):
    if isinstance(repeats, int) and repeats > 20:
        repeats = 20
    rows = [[-1, 1, "Conv", [16, 3, 2]], [source, repeats, "ELA", args], [-1, 1, "Conv", [8]]]
    said = "ELA row 1 ["
    try:
        parse_model({"nc": 1, "backbone": rows, "head": []}, 3, False)
    except RowError as error:
        said = str(error)
    assert said.startswith("ELA row 1 [")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5])
def test_the_parser_on_rows_of_any_length(length):
    row = [-1, 1, "ELA", [], 1][:length]
    with pytest.raises((RowError, IndexError, ValueError)) as caught:
        parse_model({"nc": 1, "backbone": [[-1, 1, "Conv", [16]], row], "head": []}, 3, False)
    assert length < 3 or caught.type is RowError
