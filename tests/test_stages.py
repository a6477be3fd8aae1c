"""The stages of a model, found by how its rows stand: the known families', YOLOv13's, and anybody's."""

from dataclasses import replace
from pathlib import Path

import pytest
import ultralytics
from conftest import BIN, REPO, forked

import ela_yolo
from ela_yolo import InsertionError
from ela_yolo.edit.stages import choose_stages, find_stages
from ela_yolo.edit.yaml_file import read_model_yaml, read_rows

FILES = sorted((Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml")) + sorted(
    (REPO / "cfg").glob("*.yaml")
)
ROWS = {file.stem: read_rows(read_model_yaml(file), file.name) for file in FILES}
STAGES = {  # (backbone, neck) -> the YAMLs
    ((2, 4, 6, 8), (13, 16, 19, 22)): (
        "yolo11-obb yolo11-pose yolo11-seg yolo11 yoloe-11-seg yoloe-11 yolo26-depth yolo26-obb yolo26-pose "
        "yolo26-seg yolo26 yoloe-26-seg yoloe-26 yolov10b yolov10l yolov10m yolov10n yolov10s yolov10x"
    ),
    ((2, 4, 6, 8), (12, 15, 18, 21)): (
        "yoloe-v8-seg yoloe-v8 yolov8-ghost yolov8-obb yolov8-pose yolov8-rtdetr yolov8-seg yolov8-worldv2 "
        "yolov8 yolov9c-seg yolov9c yolov9m yolov9s yolov9t"
    ),
    ((2, 4, 6, 8), ()): ("yolo11-cls yolo12-cls yolo26-cls yolov8-cls"),
    ((2, 4, 6, 8), (11, 14, 17, 20)): ("yolo12-obb yolo12-pose yolo12-seg yolo12"),
    ((2, 4, 6, 8, 10), (14, 17, 20, 23, 26, 29)): ("yolov8-ghost-p6 yolov8-p6 yolov8-pose-p6 yolov8-seg-p6"),
    ((2, 5, 8, 11), (16, 19, 22, 25)): ("yolov8-ela-obb yolov8-ela-pose yolov8-ela-seg yolov8-ela"),
    ((), ()): ("yolo11-cls-resnet18 yolov3-tiny"),
    ((2, 4, 6, 8), (14, 19, 23, 27)): ("yolov6"),  # repeated convolutions
    ((0, 1, 2, 3, 4), (11, 16, 19, 22)): ("rtdetr-resnet101 rtdetr-resnet50"),
    ((2, 4, 6, 8, 10), (11, 20, 27)): ("yolov3-spp yolov3"),
    ((0, 1, 2, 3, 4), ()): ("yolov8-cls-resnet101 yolov8-cls-resnet50"),
    ((2, 4, 6, 8), (12, 15, 18, 21, 24, 27)): ("yolov8-ghost-p2 yolov8-p2"),
    ((3, 5, 7, 9, 19, 22, 25, 28), (32, 35, 38, 41)): ("yolov9e-seg yolov9e"),
    ((2, 5, 8, 11), (17, 20, 23, 26)): ("yolo11-ela yolo26-ela"),
    ((2, 4, 6, 8), (13, 16, 19, 22, 25, 28)): ("yolo26-p2"),
    ((2, 4, 6, 8, 10), (15, 18, 21, 24, 27, 30)): ("yolo26-p6"),
    ((2, 4, 6, 8), (13, 16)): ("yolo26-sem"),
    ((1, 3, 7, 9), (16, 21, 24, 27)): ("rtdetr-l"),
    ((1, 4, 10, 13), (20, 25, 28, 31)): ("rtdetr-x"),
    ((2, 4, 6, 8, 10), (15, 19, 23, 26, 29, 32)): ("yolov5-p6"),
    ((2, 4, 6, 8), (13, 17, 20, 23)): ("yolov5"),
    ((2, 4, 6, 8), (12, 15, 19, 22)): ("yolov8-world"),
    ((2, 5, 8, 11), (15, 18, 21, 24)): ("yolo12-ela"),
    ((2, 5, 8, 11), ()): ("yolov8-ela-cls"),
    ((2, 4, 6, 8), (12, 16, 20, 24)): ("yolov8-ela-neck"),
}
STAGES_OF = {name: choice for choice, names in STAGES.items() for name in names.split()}


def chosen(rows, where):
    try:
        return choose_stages(rows, "mine.yaml", None, where, pytest.fail)
    except InsertionError:
        return ()


@pytest.mark.parametrize("name", ROWS)
def test_known_families_keep_their_stages(name):
    backbone, neck = STAGES_OF[name]
    rows = ROWS[name]
    assert [chosen(rows, where) for where in ("backbone", "neck", "all")] == [backbone, neck, backbone + neck]


NAMED = {"Conv", "Concat", "ELA", "TorchVision"}


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"yolov9s", "yolov9t"}))  # whose one ELAN1 stands before an AConv
def test_no_name_of_a_stage_is_needed(name):
    def foreign(module):
        known = module in NAMED or module.startswith("nn.") or module in ("AIFI", "SPPF")
        return module if known else f"Mine{sum(map(ord, module))}"

    rows = ROWS[name]
    assert find_stages([replace(row, module=foreign(row.module)) for row in rows]) == find_stages(rows)


# The rows of YOLOv13's YAML; none of its own modules is in Ultralytics.
YOLOV13 = """\
nc: 80
scales:
  n: [0.50, 0.25, 1024]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2, 1, 2]]
  - [-1, 2, DSC3k2, [256, False, 0.25]] # 2
  - [-1, 1, Conv, [256, 3, 2, 1, 4]]
  - [-1, 2, DSC3k2, [512, False, 0.25]] # 4
  - [-1, 1, DSConv, [512, 3, 2]]
  - [-1, 4, A2C2f, [512, True, 4]] # 6
  - [-1, 1, DSConv, [1024, 3, 2]]
  - [-1, 4, A2C2f, [1024, True, 1]] # 8
head:
  - [[4, 6, 8], 2, HyperACE, [512, 8, True, True, 0.5, 1, "both"]]
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [9, 1, DownsampleConv, []]
  - [[6, 9], 1, FullPAD_Tunnel, []]
  - [[4, 10], 1, FullPAD_Tunnel, []]
  - [[8, 11], 1, FullPAD_Tunnel, []]
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 2, DSC3k2, [512, True]] # 17
  - [[-1, 9], 1, FullPAD_Tunnel, []]
  - [17, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 13], 1, Concat, [1]]
  - [-1, 2, DSC3k2, [256, True]] # 21
  - [10, 1, Conv, [256, 1, 1]]
  - [[21, 22], 1, FullPAD_Tunnel, []]
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 18], 1, Concat, [1]]
  - [-1, 2, DSC3k2, [512, True]] # 26
  - [[-1, 9], 1, FullPAD_Tunnel, []]
  - [26, 1, Conv, [512, 3, 2]]
  - [[-1, 14], 1, Concat, [1]]
  - [-1, 2, DSC3k2, [1024, True]] # 30
  - [[-1, 11], 1, FullPAD_Tunnel, []]
  - [[23, 27, 31], 1, Detect, [nc]]
"""


def test_all_stages_of_yolov13_are_found(tmp_path):
    file = tmp_path / "yolov13.yaml"
    file.write_text(YOLOV13, encoding="utf-8")
    result = ela_yolo.insert(file, where="all")
    assert list(result.stages) == [2, 4, 6, 8, 17, 21, 26, 30]
    assert list(result.stages.values()) == ["DSC3k2", "DSC3k2", "A2C2f", "A2C2f", *["DSC3k2"] * 4]
    assert result.rows == (3, 6, 9, 12, 22, 27, 33, 38)
    assert list(ela_yolo.insert(file).stages) == [2, 4, 6, 8]
    assert ela_yolo.remove(file.with_name(write(tmp_path, result.text))).text == YOLOV13
    with pytest.raises(InsertionError, match=r"names DSC3k2, .*give layer numbers"):
        ela_yolo.insert(file, after="P3")


def write(folder, text):
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return "mine.yaml"


ROWS_OF_A_USER = {  # rows of a backbone -> its stages
    "C2f_Faster, [128] / EMA, [128] / Conv, [256, 3, 2] / C2f_Faster, [256] / EMA, [256]": (2, 5),
    "C3k2_X, [128] / SPDConv, [256] / C3k2_X, [256] / SPDConv, [512] / C3k2_X, [512]": (1, 3, 5),
    "Mine, [128] / SCDown, [256, 3, 2] / Mine, [256] / MySPPF, [256, 5]": (1, 3),
    "Mine, [128] / PatchDownsampling, [256] / Mine, [256] / ELA, [] / SPPF, [256, 5]": (1, 3),
    "Mine, [] / Conv, [256, 3, 2] / Other, [256, {a: 1}]": (3,),
    "Stem, [32, 3, 1, null, false] / Stem, [64, 3, 1] / nn.MaxPool2d, [3, 2, 1] / Blocks, [64, Basic, 2, 2] / "
    "Blocks, [128, Basic, 2, 3] / Blocks, [256, Basic, 2, 4]": (4, 5, 6),
    "Mine, [64, 48] / Conv, [128, 3, 2] / Mine, [128, 96] / Mine, [128, 96, true] / Conv, [256, 3, 2] / Mine, [256]": (
        1,
        4,
        6,
    ),
    "Mine, 3 / Conv, [256, 3, 2] / Mine, [c2] / Conv, [256, 3, 2]": (),
}


@pytest.mark.parametrize("rows", ROWS_OF_A_USER)
def test_a_stage_ends_where_the_resolution_changes(rows):
    lines = "".join(f"  - [-1, 1, {row}]\n" for row in ("Conv, [64, 3, 2]", *rows.split(" / ")))
    text = f"nc: 2\nbackbone:\n{lines}head:\n  - [[-1], 1, Detect, [nc]]\n"
    assert find_stages(read_rows(text, "mine.yaml")) == ROWS_OF_A_USER[rows]


SKIPS = """nc: 2
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [64, True]]
  - [-1, 1, ChannelScale, []]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 3, C2f, [256, True]]
head:
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 3, C2f, [256]]
  - [[4], 1, Detect, [nc]]
"""


def test_stages_that_cannot_take_a_block_are_skipped_if_all_are_meant(tmp_path):
    (tmp_path / "mine.yaml").write_text(SKIPS, encoding="utf-8")
    result = ela_yolo.insert(tmp_path / "mine.yaml", where="all")
    assert [*result.stages] == [4]
    assert result.skipped == {
        1: "C2f is followed by its ChannelScale already (layer 2)",
        6: "C2f is read by no layer, so a block after it would do nothing",
    }
    with pytest.raises(InsertionError, match=r"layer 1 C2f is followed .* already \(layer 2\); choose others with"):
        ela_yolo.insert(tmp_path / "mine.yaml", after="C2f", where="backbone")
    done = forked(BIN / "ela-yolo", "insert", "model=mine.yaml", "dry_run=True", cwd=tmp_path)
    assert "\nskipped: layer 1 C2f is followed by its ChannelScale already (layer 2)\n" in done.stdout
