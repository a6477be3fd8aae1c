"""Rows as people write them: channels first, ratios above 1, and the names of public copies."""

import pytest
import yaml
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from ela_yolo import InputError, RowError, insert
from ela_yolo.host.blocks import ENVIRONMENT, known_blocks
from ela_yolo.host.row_hints import block_in, row_hint

MODEL = """
nc: 3
scales:
  x: [1.0, 1.25, 512]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [128]]
  - [-1, 1, {module}, {args}]
head:
  - [[2], 1, Detect, [nc]]
"""
OWN = "the channels come by themselves"


def build(module, args):
    text = MODEL.replace("{module}", module).replace("{args}", args)
    return DetectionModel({**yaml.safe_load(text), "scale": "x"}, verbose=False).model[2]


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
