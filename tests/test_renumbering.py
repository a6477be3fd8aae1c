"""Properties of inserting and removing ELA rows, over all model YAMLs that Ultralytics ships."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import narrow
from hypothesis import given, settings
from hypothesis import strategies as st
from test_yaml_text import HOST_YAMLS, SMALL
from ultralytics import RTDETR, YOLO

import ela_yolo
from ela_yolo import ELA, InsertionError
from ela_yolo.edit.checkpoint import model_rows
from ela_yolo.edit.new_row import new_row_args
from ela_yolo.edit.renumbering import edit_mapping, plan_insertion, plan_removal
from ela_yolo.edit.stages import choose_stages
from ela_yolo.edit.yaml_file import read_rows
from ela_yolo.edit.yaml_text import edit_text

TEXTS = {file.stem: file.read_text() for file in HOST_YAMLS}
NEEDS_DOWNLOAD = {"yolo11-cls-resnet18"}  # torchvision's weights


def load(text):
    """As Ultralytics reads it."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def insert_rows(text, name, stages, args=(), rewire="all"):
    """Insert ELA into the text, and into the mapping as into a checkpoint: both must give the same rows."""
    rows = read_rows(text, name)
    plan, new = plan_insertion(rows, name, stages, rewire), [-1, 1, "ELA", [*args]]
    edited = edit_text(text, rows, plan, new)
    check_mapping(text, edited, lambda rows: plan_insertion(rows, name, stages, rewire), new)
    return SimpleNamespace(text=edited, rows=plan.blocks, layer_map=plan.layer_map, stages=plan.stages)


def remove_rows(text, name):
    rows = read_rows(text, name)
    plan = plan_removal(rows, name)
    edited = edit_text(text, rows, plan, None)
    check_mapping(text, edited, lambda rows: plan_removal(rows, name), None)
    return SimpleNamespace(text=edited, rows=plan.blocks, layer_map=plan.layer_map)


def check_mapping(text, edited, make_plan, new):
    config = load(text.removeprefix("\ufeff"))
    rows = model_rows(Path("best.pt"), config)
    assert edit_mapping(config, rows, make_plan(rows), new) == load(edited.removeprefix("\ufeff"))


def layers_of(text):
    config = load(text)
    return config["backbone"] + config["head"]


def comment_numbers(text):
    """For each row in a line of its own the number with which its comment begins, or None."""
    lines = [line for line in text.splitlines() if re.match(r"\s*-\s+\[", line)]
    found = [re.search(r"\]\s*#\s*(\w+ \()?(\d+)(?(1)\)|(?![\w.]))", line) for line in lines]
    return [number and int(number[2]) for number in found]


def producers(layers):
    """For each layer the absolute numbers of the layers that it reads, -1 for the image; by PyYAML alone."""
    sources = [row[0] if isinstance(row[0], list) else [row[0]] for row in layers]
    return [[s if s >= 0 else i + s for s in row] for i, row in enumerate(sources)]


@st.composite
def insertions(draw, name):
    """Stages of a YAML of Ultralytics, and how ELA is put after them."""
    rows = layers_of(TEXTS[name])
    reads = producers(rows)
    first = len(load(TEXTS[name])["backbone"])
    where = draw(st.sampled_from(["backbone", "neck", "all"]))
    rewire = draw(st.sampled_from(["all", "next"]))
    inside = {"backbone": range(first), "neck": range(first, len(rows) - 1), "all": range(len(rows) - 1)}[where]
    stages = [
        i
        for i in inside or range(first)
        if rows[i][2] not in ("CBLinear", "ImagePoolingAttn")
        and (i in reads[i + 1] if rewire == "next" else any(i in row for row in reads))
    ]
    chosen = draw(st.sets(st.sampled_from(stages), min_size=1))
    args = new_row_args(draw(st.sampled_from("TBSL")), draw(st.sampled_from(["paper", "residual", "identity"])))
    return sorted(chosen), args, rewire


def check_insertion(text, stages, args=(), rewire="all"):
    """Check everything that holds of the texts and return the new one."""
    name = "mine.yaml"
    result = insert_rows(text, name, stages, args, rewire)
    old, new = layers_of(text), layers_of(result.text)
    assert [i for i, row in enumerate(new) if row[2] == "ELA"] == list(result.rows)
    assert len(new) == len(old) + len(stages)
    home = result.layer_map
    back = {number: layer for layer, number in home.items()}
    assert sorted([*home.values(), *result.rows]) == list(range(len(new)))

    # Every layer is Ultralytics', and reads what it read, but for an ELA between.
    ours, theirs = producers(new), producers(old)
    behind = dict(zip(result.rows, stages, strict=True))
    for layer, row in enumerate(old):
        assert new[home[layer]][1:] == row[1:]
        read = ours[home[layer]]
        assert [behind[i] if i in behind else back.get(i, -1) for i in read] == theirs[layer]
        for i, source in zip(read, theirs[layer], strict=True):
            assert (i in behind) == (source in stages and (rewire == "all" or layer == source + 1))
        kinds = [[s < 0 for s in (r[0] if isinstance(r[0], list) else [r[0]])] for r in (row, new[home[layer]])]
        assert kinds[0] == kinds[1]  # negative stays negative
    for number, stage in behind.items():
        assert ours[number] == [home[stage]]
        assert new[number][1:] == [1, "ELA", [*args]]
    assert {k: v for k, v in load(text).items() if k not in ("backbone", "head")} == {
        k: v for k, v in load(result.text).items() if k not in ("backbone", "head")
    }

    # Comments number their layers as before.
    old_numbers, new_numbers = comment_numbers(text), comment_numbers(result.text)
    right = all(number in (None, layer) for layer, number in enumerate(old_numbers))
    for layer, number in enumerate(old_numbers):
        assert new_numbers[home[layer]] == (home[layer] if right and number is not None else number)

    # All else is Ultralytics' text, byte for byte.
    removed = remove_rows(result.text, name)
    assert removed.text == text
    assert removed.layer_map == back and removed.rows == result.rows
    for stage in stages:
        with pytest.raises(InsertionError, match="is followed by its ELA already"):
            insert_rows(result.text, name, [home[stage]], args)
    return result.text


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=5)
@given(data=st.data())
def test_rows_are_ultralytics_own_but_for_ela_between(name, data):
    check_insertion(TEXTS[name], *data.draw(insertions(name)))


OF_EACH_FAMILY = {
    "yolov3-tiny",
    "yolov5",
    "yolov6",
    "yolov8",
    "yolov8-pose",
    "yolov9c",
    "yolov10n",
    "yolo11",
    "yolo26",
    "rtdetr-l",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] * (name not in OF_EACH_FAMILY))
        for name in sorted(TEXTS.keys() - NEEDS_DOWNLOAD)
    ],
)
@settings(max_examples=2)
@given(data=st.data())
def test_the_model_builds_and_runs(name, data, tmp_path_factory):
    stages, args, rewire = data.draw(insertions(name))
    text = check_insertion(TEXTS[name], stages, args, rewire)
    scales = load(text).get("scales", {})
    scale = data.draw(st.sampled_from([s for s in scales if s in "nsmlx"] or [""]))
    family = re.match(r"(yolo(e-)?v?\d+|rtdetr|.*)", name)[0]
    stem = f"{family}{scale}{name[len(family) :]}" if len(scales) > 1 else name
    file = tmp_path_factory.mktemp("model") / f"{stem}.yaml"
    file.write_text(narrow(text))
    model = (RTDETR if "rtdetr" in name else YOLO)(str(file)).model.eval()
    assert model.yaml["scale"] == (scale if len(scales) > 1 else model.yaml["scale"])
    blocks = [layer for layer in model.model if isinstance(layer, ELA)]
    (given,) = args or [{}]
    expected = ELA(blocks[0].channels, **given)
    assert len(blocks) == len(stages)
    assert {(block.variant, block.gate) for block in blocks} == {(expected.variant, expected.gate)}
    assert [layer.f if isinstance(layer.f, list) else [layer.f] for layer in model.model] == [
        row[0] if isinstance(row[0], list) else [row[0]] for row in layers_of(text)
    ]
    with torch.no_grad():
        size = 192 if "rtdetr" in name else 64  # its older decoders want 300 cells
        output = model(torch.rand(1, 3, size, size))
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", sorted(NEEDS_DOWNLOAD))
def test_a_model_that_needs_a_download_cannot_have_its_strides_measured(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(InsertionError, match=r"does not run here, so its strides are unknown .*; give layer numbers"):
        ela_yolo.insert(f"{name}.yaml", after="P5")


CHOICES = {  # YAML, after, where -> layers of Ultralytics
    ("yolov8n.yaml", None, None): (2, 4, 6, 8),
    ("yolov8n.yaml", "C2f", None): (2, 4, 6, 8),
    ("yolov8n.yaml", "C2f", "neck"): (12, 15, 18, 21),
    ("yolov8n.yaml", ("C2f", "SPPF"), "all"): (2, 4, 6, 8, 9, 12, 15, 18, 21),
    ("yolov8n.yaml", "C2f,SPPF", None): (2, 4, 6, 8, 9),
    ("yolov8n.yaml", 21, None): (21,),
    ("yolov8n.yaml", "4, 6,9,", None): (4, 6, 9),
    ("yolov8n.yaml", (4, "SPPF"), None): (4, 9),
    ("yolov8n.yaml", "P3,P4,P5", None): (4, 6, 8),
    ("yolov8n.yaml", "P3,P4,P5", "neck"): (15, 18, 21),
    ("yolov8n.yaml", "P3,P5", "all"): (15, 21),
    ("yolov8s-p6.yaml", "P6", None): (10,),
    ("yolov5n.yaml", None, None): (2, 4, 6, 8),
    ("yolov6n.yaml", "P5,SPPF", None): (8, 9),
    ("yolov3-tiny.yaml", "P5", None): "no stage at P5 in where=backbone; there are: none",
    ("yolov9c.yaml", None, "neck"): (12, 15, 18, 21),
    ("yolov9t.yaml", None, None): (2, 4, 6, 8),
    ("yolov10x.yaml", None, "all"): (2, 4, 6, 8, 13, 16, 19, 22),
    ("yolo12n.yaml", None, None): (2, 4, 6, 8),
    ("rtdetr-l.yaml", "P3", None): (3,),
    ("yolov8n.yaml", "C3", None): "no C3 in where=backbone; there are: Conv, C2f, SPPF",
    ("yolov8n.yaml", "P7", None): "no stage at P7 in where=backbone; there are: P2, P3, P4, P5",
    ("yolov8n.yaml", 23, None): "has no layer 23, only 0 to 22",
    ("yolov8n.yaml", -1, None): "has no layer -1",
    ("yolov8n.yaml", 15, "backbone"): "layer 15 is not in where=backbone",
    ("yolov8n.yaml", 22, None): "layer 22 Detect is the head, and nothing reads it",
    ("yolov8n.yaml", "", None): "after= is empty",
    ("yolov8n.yaml", 4.0, None): "after= takes module names, layer numbers and levels such as P3, got 4.0",
    ("yolov8n.yaml", (4.0,), None): "after= takes module names, layer numbers",
    ("yolov8n.yaml", (), None): "after= is empty",
    ("yolov8n.yaml", None, "head"): "where must be one of backbone, neck, all, got 'head'",
    ("yolov8n-cls.yaml", None, "neck"): "has no rows in where=neck; choose another where=",
    ("yolov6n.yaml", None, None): (2, 4, 6, 8),
    ("yolov3-tiny.yaml", None, None): "with after=, by number or of Conv, nn.MaxPool2d, nn.ZeroPad2d",
    ("yolov9e.yaml", 10, None): "layer 10 CBLinear gives a list of feature maps, and ELA needs one",
    ("yolov8s-world.yaml", "ImagePoolingAttn", "neck"): "gives text features",
    ("yolov8n-ela.yaml", None, None): "layer 2 C2f is followed by its ELA already (layer 3)",
    ("yolov8n-ela.yaml", 3, None): "layer 3 ELA is a block itself",
}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_stages_are_chosen_by_name_number_and_level(choice):
    model, after, where = choice
    expected = CHOICES[choice]
    if isinstance(expected, str):
        with pytest.raises(InsertionError, match=re.escape(expected)):
            ela_yolo.insert(model, after=after, where=where)
    else:
        result = ela_yolo.insert(model, after=after, where=where)
        assert result.rows == tuple(stage + 1 + n for n, stage in enumerate(expected))


def test_next_alone_is_rewired():
    text = SMALL.replace("[[-1], 1", "[[1, 2], 1")
    assert "[[1, 3], 1, Classify" in insert_rows(text, "mine.yaml", [1], rewire="next").text
    assert "[[2, 3], 1, Classify" in insert_rows(text, "mine.yaml", [1], rewire="all").text
    with pytest.raises(InsertionError, match="layer 9 RepNCSPELAN4 is not read by the row after it"):
        ela_yolo.insert("yolov9e.yaml", after=9, rewire="next")
    unread = SMALL.replace("[[-1], 1", "[[1], 1")
    with pytest.raises(InsertionError, match="layer 2 Conv is read by no layer"):
        insert_rows(unread, "mine.yaml", [2])


def test_what_reads_a_removed_row_reads_what_that_read():
    text = """\
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]] # 0
  - [-1, 1, C2f, [8]] # 1
  - [0, 1, ELA, []] # 2, not of the row before
  - [-1, 1, ELA, [S]] # 3, of an ELA
  - [-1, 1, Conv, [8]] # 4
head:
  - [[2, 3, -1], 1, Classify, [nc]] # 5
"""
    result = remove_rows(text, "mine.yaml")
    assert producers(layers_of(result.text)) == [[-1], [0], [0], [0, 0, 2]]
    assert result.rows == (2, 3) and result.layer_map == {0: 0, 1: 1, 4: 2, 5: 3}
    assert "# 2\nhead" in result.text and "# 3\n" in result.text
    with pytest.raises(InsertionError, match=r"mine\.yaml has no blocks to remove"):
        remove_rows(result.text, "mine.yaml")
    first = SMALL.replace("backbone:\n", "backbone:\n  - [-1, 1, ELA, []]\n").replace("[[-1], 1", "[[-1, 0], 1")
    with pytest.raises(InsertionError, match="a block that reads the image is read by a later layer"):
        remove_rows(first, "mine.yaml")


def test_args_say_no_more_than_needed():
    assert [new_row_args(), new_row_args("B", "identity")] == [[{"gate": "identity", "lr_mult": 100}]] * 2
    assert [new_row_args("B", "paper"), new_row_args("S", "paper")] == [[], [{"variant": "S"}]]
    assert new_row_args("T", "residual", 30) == [{"variant": "T", "gate": "residual", "lr_mult": 30}]
    assert new_row_args("T", None, 1) == [{"variant": "T", "gate": "identity", "lr_mult": 1}]
    assert new_row_args(block="ChannelScale") == [{"lr_mult": 100}]
    assert new_row_args(block="SE") == [{"identity": True, "lr_mult": 100}]


@pytest.mark.parametrize("lr_mult", [1e-5, 0.5, 30, 1e2])
def test_a_number_is_read_back_as_one(lr_mult, tmp_path):
    inserted = ela_yolo.insert("yolov8n.yaml", lr_mult=lr_mult, after=iter([4]), save=tmp_path / "yolov8-mine.yaml")
    assert layers_of(inserted.text)[5][3] == [{"gate": "identity", "lr_mult": lr_mult}]
    assert YOLO(tmp_path / "yolov8n-mine.yaml").model.model[5].lr_mult == lr_mult


def test_an_ela_row_that_reads_several_layers_is_not_removed():
    for source in ("[0, 1]", "[]"):
        with pytest.raises(InsertionError, match="layer 2 ELA must read one layer"):
            remove_rows(SMALL.replace("[-1, 1, Conv, [16, 3, 2]]", f"[{source}, 1, ELA, []]"), "mine.yaml")


def test_blocks_at_the_end_of_a_file_without_a_line_end_are_all_removed():
    text = "head:\n  - [[1, 3], 1, Detect, [nc]]\nbackbone:\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, C2f, [8]]\n"
    text = text.replace("[[1, 3]", "[[0, 3]") + "  - [-1, 1, ELA, []]\n  - [-1, 1, ELA, []]"
    removed = remove_rows(text, "mine.yaml").text
    assert producers(layers_of(removed)) == [[-1], [0], [0, 1]] and "ELA" not in removed


def test_numbers_in_brackets_of_comments_are_raised_too():
    text = ela_yolo.insert("rtdetr-l.yaml", after=1).text
    assert "# F5 (28), pan_blocks.1" in text and "# 23, downsample_convs.0" in text and "# cat Y5" in text


def test_levels_alone_are_measured():
    rows = read_rows(TEXTS["yolov8"], "yolov8.yaml")
    assert choose_stages(rows, "yolov8.yaml", None, None, pytest.fail) == (2, 4, 6, 8)
    with pytest.raises(InsertionError, match="there are: P2"):
        choose_stages(rows, "yolov8.yaml", "P3", None, lambda: {2: 4})
