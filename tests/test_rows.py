"""Rows of blocks: what they build, and those that are refused, among them rows as public copies have them."""

import re

import pytest
import yaml
from conftest import SMALL
from torch import nn
from ultralytics.nn.tasks import DetectionModel, parse_model

from ela_yolo import InputError, RowError, insert
from ela_yolo.host.blocks import ENVIRONMENT, known_blocks
from ela_yolo.host.unknown_modules import block_in, row_hint

OWN = "channels are inferred"


def model_of(row):
    return DetectionModel({**yaml.safe_load(SMALL.replace("{row}", row)), "scale": "x"}, verbose=False)


def build_row(row):
    """Build a small model with this row as its layer 2, which reads 160 channels; return the layer."""
    return model_of(row).model[2]


def build(module, args):
    return build_row(f"[-1, 1, {module}, {args}]")


class Reduction(nn.Module):
    """A block of a user's."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.down, self.up = (
            nn.Conv2d(channels, channels // reduction, 1),
            nn.Conv2d(channels // reduction, channels, 1),
        )

    def forward(self, x):
        return x * self.up(self.down(x)).sigmoid()


class Plain(nn.Identity):
    """A block of a user's that takes its channels alone."""

    def __init__(self, channels):
        super().__init__()


@pytest.fixture(autouse=True)
def users_blocks(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, f"Reduction={__name__}:Reduction,Plain={__name__}:Plain")


ROWS = {
    "[-1, 1, ELA, []]": "160, variant=B, gate=paper, kernel_size=7, groups=160, num_groups=16",
    "[-1, 1, ELA, [S]]": "160, variant=S, gate=paper, kernel_size=5, groups=20, num_groups=16",
    "[-1, 1, ELA, [T, identity]]": "160, variant=T, gate=identity, kernel_size=5, groups=160, num_groups=32",
    "[0, 1, ELA, [B, paper, 9]]": "80, variant=B, gate=paper, kernel_size=9, groups=80, num_groups=16",
    "[-2, 1, ELA, [B, null, null, 4, 8]]": "80, variant=B, gate=paper, kernel_size=7, groups=4, num_groups=8",
    "[-1, 1, ELA, [{variant: S, gate: identity, kernel_size: 9}]]": (
        "160, variant=S, gate=identity, kernel_size=9, groups=20, num_groups=16"
    ),
    "[-1, 1, ELA, [{}]]": "160, variant=B, gate=paper, kernel_size=7, groups=160, num_groups=16",
}
NAMED = "allowed, in this order or named in one mapping: variant, gate, kernel_size, groups, num_groups, lr_mult"
BAD_ROWS = {
    "[-1, 1, ELA, [X]]": "ELA row 2 [-1, 1, ELA, ['X']]: variant must be one of T, B, S, L, got 'X'",
    "[-1, 1, ELA, [B, soft]]": "gate must be one of paper, residual, identity, got 'soft'",
    "[-1, 1, ELA, ['']]": "variant must be one of T, B, S, L, got ''",
    "[-1, 1, ELA, [B, paper, 4]]": "kernel_size must be odd",
    "[-1, 1, ELA, [B, paper, seven]]": "kernel_size must be a positive integer, got 'seven'",
    "[-1, 1, ELA, [B, paper, ch]]": "kernel_size must be a positive integer, got 'ch'",
    "[-1, 1, ELA, [B, paper, 7, 3]]": "groups must divide the 160 channels, got 3",
    "[-1, 1, ELA, [B, paper, 7, 1, 1, 1, 1]]": f"7 args; {NAMED}",
    "[-1, 1, ELA, [{kernelsize: 9}]]": f"unknown key 'kernelsize', did you mean 'kernel_size'? {NAMED}",
    "[-1, 1, ELA, [S, {gate: paper}]]": f"give the args by position or in one mapping, not both; {NAMED}",
    "[-1, 1, ELA, S]": "args must be a list such as [], got S",
    "[[0, 1], 1, ELA, []]": "ELA reads one layer, so its 'from' is one number such as -1 or 4, got [0, 1]",
    "[2, 1, ELA, []]": "'from' 2 is not a layer before this one; use -1 or a number below 2",
    "[-3, 1, ELA, []]": "'from' -3 is not a layer before this one",
    "[-1, 0, ELA, []]": "repeats must be a positive integer, got 0",
    "[-1, 1, ELA]": "a row has four entries, [from, repeats, module, args], such as [-1, 1, ELA, []]",
    "[-1, two, ELA, []]": "repeats must be a positive integer, got 'two'",
}


@pytest.mark.parametrize("row", ROWS)
def test_rows(row):
    assert build_row(row).extra_repr() == ROWS[row]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_bad_rows_are_named_with_what_is_allowed(row):
    with pytest.raises(RowError) as caught:
        build_row(row)
    assert str(caught.value).startswith("ELA row 2 [")
    assert BAD_ROWS[row] in str(caught.value)


def test_an_ela_row_that_nothing_reads_is_refused():
    config = yaml.safe_load(SMALL.replace("{row}", "[-1, 1, ELA, []]").replace("[[2], 1, Detect", "[[1], 1, Detect"))
    with pytest.raises(RowError, match="ELA row 2 is read by no layer; change the number"):
        DetectionModel(config, verbose=False)


def test_an_ela_row_may_come_first_and_the_callers_rows_are_left_alone():
    config = {"backbone": [[-1, 1, "ELA", []]], "head": []}
    model, _ = parse_model(config, 3, False)
    assert model[0].channels == 3
    assert config == {"backbone": [[-1, 1, "ELA", []]], "head": []}


def test_repeats_are_scaled_by_depth_as_ultralytics_own():
    repeated = build_row("[-1, 4, ELA, [S]]")
    assert [type(block).__name__ for block in repeated] == ["ELA"] * 4


def test_the_models_own_yaml_keeps_the_users_row():
    assert model_of("[-1, 1, ELA, [{variant: S}]]").yaml["backbone"][2] == [-1, 1, "ELA", [{"variant": "S"}]]


REFUSED = [  # the layer that is read has 160 channels, and 128 in its row
    *(
        ("ELA", args, f"variant must be one of T, B, S, L, got {args[1:-1].split(',')[0]}; {OWN}")
        for args in ("[1024]", "[512, 7]")
    ),
    ("ELA", "[c1]", f"variant must be one of T, B, S, L, got 'c1'; {OWN}"),
    ("CBAM", "[1024, 7]", f"rd_ratio must be above 0 and at most 1, got 1024; {OWN}"),
    ("CBAM", "[c1]", "rd_ratio must be above 0 and at most 1, got 'c1'"),
    ("SE", "[16]", f"rd_ratio must be above 0 and at most 1, got 16; {OWN}"),
    ("SE", "[true]", "rd_ratio must be above 0 and at most 1, got True"),
    ("SE", "[{ratio: 0.25}]", "unknown key 'ratio', did you mean 'rd_ratio'? allowed, in this order or named"),
    ("CA", "[{se_factor: 100}]", "se_factor must be above 0 and at most 1, got 100"),
    ("ECA", "[160, 3]", f"{OWN}, so leave 160 out"),
    ("Reduction", "[128]", f"{OWN}, so leave 128 out, or name the option: [{{reduction: 128}}]"),
    ("Reduction", "[16, 3]", "2 args; allowed, in this order or named in one mapping: reduction"),
    ("Plain", "[160]", f"1 args; allowed, in this order or named in one mapping: none; {OWN}"),
]


@pytest.mark.parametrize(("module", "args", "said"), REFUSED)
def test_rows_as_others_write_them_are_refused_with_the_remedy(module, args, said):
    pytest.importorskip("timm")
    with pytest.raises(RowError) as caught:
        build(module, args)
    assert str(caught.value).startswith(f"{module} row 2 [-1, 1, {module}, [")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "args", "look", "expected"),
    [
        ("ELA", "[None, None, 9]", lambda block: block.conv.kernel_size[0], 9),
        ("CBAM", "[{spatial_kernel_size: 3}]", lambda block: block.spatial.conv.conv.kernel_size, (3, 3)),
        ("SE", "[0.25]", lambda block: block.fc1.out_channels, 40),
        ("SE", "[{rd_channels: 8}]", lambda block: block.fc1.out_channels, 8),
        ("SE", "[{gate_layer: hard_sigmoid}]", lambda block: type(block.gate).__name__, "Hardsigmoid"),
        ("CA", "[{has_skip: true}]", lambda block: block.has_skip, True),
        ("ECA", "[{gamma: 1}]", lambda block: block.conv.kernel_size, (9,)),
        ("ECA", "[{use_mlp: true, rd_channels: 4}]", lambda block: block.conv.out_channels, 4),
        ("Reduction", "[8]", lambda block: block.down.out_channels, 20),
        ("Reduction", "[{reduction: 160}]", lambda block: block.down.out_channels, 1),
        ("Plain", "[]", lambda block: type(block).__name__, "Plain"),
    ],
)
def test_args_by_position_and_by_name(module, args, look, expected):
    pytest.importorskip("timm")
    assert look(build(module, args)) == expected


def test_a_row_may_give_any_text_to_its_block():
    with pytest.raises(TypeError):  # of the block: it is not taken for the channels
        build("Reduction", "[channel]")


@pytest.mark.parametrize(
    ("name", "block"),
    [
        *(("C2f_ELA", "ELA"), ("ELA_S", "ELA"), ("ELABlock", "ELA"), ("EfficientLocalizationAttention", "ELA")),
        *(("CoordAtt", "CA"), ("C3k2_CBAM", "CBAM"), ("SEAttention", "SE"), ("reduction", "Reduction")),
        *(("ChanelScale", "ChannelScale"), ("EfficientLocalisationAttention", "ELA")),
        *(
            (name, None)
            for name in ("EMA", "SimAM", "ELAN2", "GELAN", "SEAM", "CAA", "SA", "Delta", "Conv3", "EMA_Block")
        ),
    ],
)
def test_the_block_in_a_name(name, block):
    assert block_in(name, known_blocks()) == block
    hint = row_hint(name, known_blocks())
    if block is None:
        assert hint == ""
    else:
        assert f"{block} is a separate row, [-1, 1, {block}, []]" in hint and f"block={block}" in hint
        with pytest.raises(InputError, match=f"there is no block {name}, did you mean '{block}'"):
            insert("yolov8n.yaml", block=name)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[-1, 1, EfficientLocalizationAttention, [256]]", "ELA is a separate row"),
        ("[-1, 1, ELA, [1024]]", "1024 is not a variant of ELA; channels are inferred"),
    ],
)
def test_insert_names_a_row_of_copied_code(row, said, tmp_path, caplog):
    file = tmp_path / "pasted.yaml"
    file.write_text(SMALL.replace("{row}", row))
    assert insert(file, after=0).rows == (1,)
    assert re.search(f"pasted.yaml: layer 2: .*{re.escape(said)}.*; to train here, remove this row", caplog.text)
