"""Reading the rows of a model YAML with their places, and refusing what cannot be edited."""

import re
from pathlib import Path

import pytest
import ultralytics
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ela_yolo import ModelYamlError
from ela_yolo.edit.yaml_file import read_model_yaml
from ela_yolo.edit.yaml_text import read_rows

HOST_YAMLS = sorted((Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml"))
YOLOV8 = next(file for file in HOST_YAMLS if file.name == "yolov8.yaml").read_text()
SMALL = """\
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]] # 0-P1/2
  - [-1, 1, C2f, [8]] # 1
  - [-1, 1, Conv, [16, 3, 2]] # 2
head:
  - [[-1], 1, Classify, [nc]] # 3
"""


def test_all_model_yamls_of_ultralytics_are_read_as_yaml_reads_them():
    assert len(HOST_YAMLS) == 66
    for file in HOST_YAMLS:
        config = yaml.safe_load(file.read_text())
        rows = read_rows(read_model_yaml(file), file.name)
        assert [[row.part, row.module] for row in rows] == [
            [part, row[2]] for part in ("backbone", "head") for row in config[part]
        ]
        for row, theirs in zip(rows, config["backbone"] + config["head"], strict=True):
            source = theirs[0] if isinstance(theirs[0], list) else [theirs[0]]
            assert [span.value for span in row.sources] == source
            text = file.read_text()
            assert all(text[span.start : span.end] == str(span.value) for span in row.sources)
            if row.number:
                assert re.match(rf".*\]\s*# (\w\d \()?{row.layer}\b", text[row.start : row.number.end])


BAD = {  # text -> what the one line says
    "": "is not a model YAML, or cut off: it has no rows under 'backbone:'",
    "just words": "no rows under 'backbone:'",
    "names: [a, b]\n": "no rows under 'backbone:'",
    "backbone:\nhead:\n  - [-1, 1, Detect, [nc]]\n": "no rows under 'backbone:'",
    "backbone: [[-1, 1, Conv, [8]]]\nhead: 3\n": "no rows under 'head:'",
    "backbone: [[-1, 1, Conv, [8]]]\nhead: [[-1, 1, Detect, [nc]]]\n": "line 1: layer 0 is not on a line of its own",
    SMALL.replace("  - [-1, 1, C2f", "\t- [-1, 1, C2f"): "line 4: a tab where YAML wants spaces",
    SMALL.replace("C2f, [8]]", "C2f, [8]"): "expected ',' or ']'",
    SMALL[: SMALL.index("Classify") + 3]: "is no whole YAML: it ends in line 7, within a row or a word; is it cut off?",
    SMALL[: SMALL.index("head")]: "no rows under 'head:'",
    SMALL.replace("[[-1], 1, Classify, [nc]]", "[-1, 1, Conv, [8]]"): "ends in layer 3 Conv, which is no head",
    SMALL.replace("[-1, 1, C2f, [8]]", "[-1, C2f, [8]]"): "line 4: layer 1 is not a row [from, repeats, module, args]",
    SMALL.replace("[-1, 1, C2f, [8]]", "C2f"): "layer 1 is not a row",
    SMALL.replace(
        "- [-1, 1, C2f, [8]]", "- - -1\n    - 1\n    - C2f\n    - [8]"
    ): "layer 1 is not on a line of its own",
    SMALL.replace("[[-1], 1", "[[9], 1"): "layer 3 reads 9, but only layers 0 to 2 come before it",
    SMALL.replace("[[-1], 1", "[-4, 1"): "layer 3 reads -4, but",
    SMALL.replace("[-1, 1, Conv, [8", "[0, 1, Conv, [8"): "layer 0 reads 0, but only the image comes (-1) before it",
    SMALL.replace("[[-1], 1", "['2', 1"): "layer 3 reads '2', which is not a layer number",
    SMALL.replace("[[-1], 1", "[2.5, 1"): "reads '2.5', which is not",
    SMALL.replace("- [-1, 1, C2f, [8]]", "- &a [-1, 1, C2f, [8]]").replace(
        "- [-1, 1, Conv, [16, 3, 2]]", "- *a"
    ): "two rows stand in one line or are one by a YAML alias",
    SMALL.replace("[[-1], 1", "[[&a 1, 2], 1"): "layer 3 reads &a 1; write the plain number 1",
    SMALL.replace("[[-1], 1", "[!!int 2, 1"): "layer 3 reads !!int 2; write the plain number 2",
    SMALL.replace("[[-1], 1", "[01, 1"): "layer 3 reads 01; write the plain number 1",
    SMALL.replace("[-1, 1, Conv, [16", "[&p [-1, 0], 1, Conv, [16").replace(
        "[[-1], 1", "[*p, 1"
    ): "two rows share their",
    "nc: \0": "is not YAML",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_whole_model_is_refused_in_one_line(text):
    with pytest.raises(ModelYamlError, match=re.escape(BAD[text])) as caught:
        read_rows(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8")])
def test_what_cannot_be_read_is_refused(content, reason, tmp_path):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelYamlError, match=reason):
        read_model_yaml(file)


@given(st.integers(0, len(YOLOV8.rstrip()) - len("] # Detect(P3, P4, P5)") - 1))
def test_a_file_that_was_cut_off_anywhere_is_refused(length):
    with pytest.raises(ModelYamlError):
        read_rows(YOLOV8[:length], "mine.yaml")


@pytest.mark.parametrize("file", HOST_YAMLS, ids=lambda file: file.stem)
def test_a_file_that_lacks_its_last_rows_is_refused(file):
    text = file.read_text()
    for row in read_rows(text, file.name)[:-1]:
        with pytest.raises(ModelYamlError):
            read_rows(text[: row.end], file.name)
