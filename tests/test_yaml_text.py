"""Reading the rows of a model YAML, refusing what is none, and editing rows in whatever way they are written."""

import itertools
import json
import re
from pathlib import Path

import pytest
import ultralytics
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ultralytics import YOLO

import ela_yolo
from ela_yolo import ModelYamlError
from ela_yolo.edit.renumbering import edit_mapping, plan_insertion, plan_removal
from ela_yolo.edit.yaml_file import load_yaml, read_model_yaml, read_rows, write_row
from ela_yolo.edit.yaml_text import edit_text

HOST_YAMLS = sorted((Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml"))
YOLOV8 = next(file for file in HOST_YAMLS if file.name == "yolov8.yaml").read_text()
NEW = [-1, 1, "ELA", [{"gate": "identity"}]]
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
            assert [*row.sources] == (theirs[0] if isinstance(theirs[0], list) else [theirs[0]])


BAD = {  # text -> what the one line says
    "": "is not a model YAML, or is truncated: it has no rows under 'backbone:'",
    "just words": "no rows under 'backbone:'",
    "names: [a, b]\n": "no rows under 'backbone:'",
    "backbone:\nhead:\n  - [-1, 1, Detect, [nc]]\n": "no rows under 'backbone:'",
    "backbone: [[-1, 1, Conv, [8]]]\nhead: 3\n": "no rows under 'head:'",
    SMALL.replace("  - [-1, 1, C2f", "\t- [-1, 1, C2f"): "line 4: a tab where YAML wants spaces",
    SMALL.replace("C2f, [8]]", "C2f, [8]"): "expected ',' or ']'",
    SMALL[: SMALL.index("Classify") + 3]: "is truncated: it ends in line 7, within a row or a word",
    SMALL[: SMALL.index("head")]: "no rows under 'head:'",
    SMALL.replace("[[-1], 1, Classify, [nc]]", "[-1, 1, Conv, [8]]"): "ends in layer 3 Conv, which is not a head",
    SMALL.replace("[-1, 1, C2f, [8]]", "[-1, C2f, [8]]"): "line 4: layer 1 is not a row [from, repeats, module, args]",
    SMALL.replace("[-1, 1, C2f, [8]]", "C2f"): "layer 1 is not a row",
    SMALL.replace("[[-1], 1", "[[9], 1"): "line 7: layer 3 reads 9, but only layers 0 to 2 come before it",
    SMALL.replace("[[-1], 1", "[-4, 1"): "layer 3 reads -4, but",
    SMALL.replace("[-1, 1, Conv, [8", "[0, 1, Conv, [8"): "layer 0 reads 0, but only the image comes (-1) before it",
    SMALL.replace("[[-1], 1", "['2', 1"): "layer 3 reads '2', which is not a layer number",
    SMALL.replace("[[-1], 1", "[2.5, 1"): "reads 2.5, which is not",
    "a: &a\n  backbone: [[-1, 1, Conv]]\n  head: [[-1, 1, Detect, [nc]]]\n<<: *a\n": "mine.yaml: layer 0 is not a row",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_whole_model_is_refused_in_one_line(text):
    with pytest.raises(ModelYamlError, match=re.escape(BAD[text])) as caught:
        read_rows(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("nc: 2".encode("utf-16"), "UTF-16")])
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
    lines = file.read_text().splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if re.match(r"\s*- \[", line)]
    for number in rows[:-1]:
        with pytest.raises(ModelYamlError):
            read_rows("".join(lines[: number + 1]), file.name)


# A model in which everything occurs that an edit must change: sources that are single, several, relative and absolute.
ROWS = {
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 2, "C2f", [32, True]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 1], 1, "Concat", [1]],
        [-1, 1, "C2f", [16]],
        [3, 1, "C2f", [32]],
        [[6, 7], 1, "Detect", ["nc"]],
    ],
}


def block_style(value, indent):
    """A row in block style, also its lists; without the dash of the row itself."""
    if not isinstance(value, list) or not value:
        return write_row([value])[1:-1]
    inner = indent + "  "
    return f"\n{indent}".join("- " + block_style(item, inner) for item in value)


def over_lines(row, indent):
    """A row in brackets over four lines, with a comment in it."""
    cells = [write_row([cell])[1:-1] for cell in row]
    return f"[{cells[0]}, # from\n{indent}  {cells[1]},\n{indent}  {cells[2]}, {cells[3]}]"


ROW_STYLES = {
    "one line": lambda row, indent: write_row(row),
    "spaces": lambda row, indent: write_row(row).replace("[", "[ ").replace("]", " ]").replace(", ", ",   "),
    "quoted": lambda row, indent: write_row(row).replace(row[2], f"'{row[2]}'"),
    "json": lambda row, indent: json.dumps(row),
    "lines": over_lines,
    "block": block_style,
}


def in_dashes(rows, style, first, indent, comment):
    pad = " " * indent
    lines = [
        f"{pad}- {ROW_STYLES[style](row, pad + '  ')}{f'  # {first + i}' * comment}\n" for i, row in enumerate(rows)
    ]
    return "\n" + "".join(lines)


def in_brackets(form):
    """A list in brackets: all rows in a line, a row a line, or with the commas in front."""

    def write(rows, style, first, indent, comment):
        texts = [ROW_STYLES[style](row, "     ") for row in rows]
        notes = [f"  # {first + i}" * comment for i in range(len(rows))]
        if form == "line":
            return f" [{', '.join(texts)}]\n"
        if form == "front":
            return "\n  [ " + "\n  , ".join(text + note for text, note in zip(texts, notes, strict=True)) + "\n  ]\n"
        ends = [",", ",", ",", ",", ","][: len(rows)]
        if form == "lines without a last comma":
            ends[len(rows) - 1] = ""
        body = "\n   ".join(t + end + note for t, end, note in zip(texts, ends, notes, strict=True))
        closing = "]" if form.endswith("comma") and not comment else "\n  ]"
        return f"\n  [{body}{closing}\n" if form.startswith("lines") else f" [\n   {body}\n]\n"

    return write


LIST_STYLES = {
    "dashes": in_dashes,
    **{form: in_brackets(form) for form in ("line", "lines", "lines without a last comma", "own lines", "front")},
}


def variants():
    """Return name -> text, the same model in each way of writing it."""
    found = {}
    for lists, style, comment, indent in itertools.product(LIST_STYLES, ROW_STYLES, (True, False), (0, 4)):
        if (lists != "dashes" and (style == "block" or indent)) or (lists == "line" and comment):
            continue
        text = "# of a user\nnc: 2\n"
        for part, first in (("backbone", 0), ("head", 4)):
            text += f"{part}:" + LIST_STYLES[lists](ROWS[part], style, first, indent, comment) + "\n# between\n"
        name = f"{lists}, {style}, {'numbered' if comment else 'bare'}, {indent}"
        found[name] = text
        found[f"{name}, CRLF"] = text.replace("\n", "\r\n")
    found["JSON"] = json.dumps({"nc": 2, **ROWS})
    found["JSON with indents"] = json.dumps({"nc": 2, **ROWS}, indent=2)
    found["head first"] = f"head: {ROWS['head']}\nbackbone: {ROWS['backbone']}\nnc: 2\n".replace("None", "null")
    one = found["dashes, one line, numbered, 4"]
    found["no line end"] = one.rstrip()
    found["BOM"] = "\ufeff" + one
    found["document"] = f"%YAML 1.1\n---\n{one}...\n"
    found["dash alone"] = one.replace("    - [", "    -   # a row\n      [")
    found["tags"] = one.replace("[3, 1, C2f", "[!!int 3, 1, C2f").replace("[6, 7]", "!!seq [6, +7]")
    found["keys in quotes"] = one.replace("backbone:", "'backbone' :").replace("head:", '"head":')
    found["anchor on a source"] = one.replace("[3, 1, C2f", "[&three 3, 1, C2f")
    found["alias of args"] = one.replace("[16, true]", "&a [16, true]").replace("[16]", "*a")
    found["alias of a row"] = one.replace("- [-1, 1, Conv, [16, 3, 2]]", "- &c [-1, 1, Conv, [16, 3, 2]]").replace(
        "- [-1, 1, Conv, [32, 3, 2]]", "- *c"
    )
    found["anchor on the stage"] = one.replace("- [-1, 2, C2f", "- &s [-1, 2, C2f")
    found["alias of lists"] = one.replace("backbone:", "mine: &m").replace("head:", "backbone: *m\nhead:")
    found["merge"] = "base: &b\n" + re.sub("(?m)^(?=.)", "  ", one) + "<<: *b\n"
    return found


VARIANTS = variants()


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_are_edited_in_whatever_way_they_are_written(name):
    """The result is checked by loading it, and by the mapping that a checkpoint gets."""
    text = VARIANTS[name]
    config, rows = load_yaml(text), read_rows(text, "mine.yaml")
    for stages in ([1, 3], [3], [1, 3, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]):
        plan = plan_insertion(rows, "mine.yaml", stages)
        edited = edit_text(text, rows, plan, NEW)
        assert load_yaml(edited) == edit_mapping(config, rows, plan, NEW)
        new_rows = read_rows(edited, "mine.yaml")
        removed = edit_text(edited, new_rows, plan_removal(new_rows, "mine.yaml"), None)
        assert load_yaml(removed) == config
        if not any(word in name for word in ("alias", "anchor", "merge", "tags")):
            assert removed == text
            assert edited.count("\r\n") == edited.count("\n") or "\r\n" not in text
            assert set(comment_numbers(edited)) <= {str(plan.layer_map[layer]) for layer in range(9)}
    assert len(VARIANTS) > 100


def comment_numbers(text):
    return re.findall(r"# (\d+)", text)


def test_only_rows_that_share_something_are_written_anew():
    text = VARIANTS["anchor on a source"].replace("# ", "# layer ")
    rows = read_rows(text, "mine.yaml")
    edited = edit_text(text, rows, plan_insertion(rows, "mine.yaml", [3]), NEW)
    gone = [line for line in text.splitlines() if line not in edited.splitlines()]
    assert [line.partition("#")[0].strip() for line in gone] == [
        "- [&three 3, 1, C2f, [32]]",
        "- [[6, 7], 1, Detect, [nc]]",
    ]


def test_ultralytics_builds_what_is_written_and_bytes_that_are_not_utf8_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = VARIANTS["lines, one line, numbered, 0"].replace("# of a user", "# 检测头").encode("gbk")
    Path("mine.yaml").write_bytes(text)
    insertion = ela_yolo.insert("mine.yaml", save="new.yaml")
    assert b"\xbc\xec\xb2\xe2" in Path("new.yaml").read_bytes()
    insertion.text.encode()
    assert [type(layer).__name__ for layer in YOLO("new.yaml").model.model].count("ELA") == 2
    ela_yolo.remove("new.yaml", save="old.yaml")
    assert Path("old.yaml").read_bytes() == text
