"""Rows as people write them: channels first, ratios above 1, args without effect, and the names of public copies."""

import pytest
import torch
import yaml
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from ela_yolo import InputError, ModelYamlError, RowError, insert
from ela_yolo.host.blocks import ENVIRONMENT, known_blocks
from ela_yolo.host.lookup import check_rows
from ela_yolo.host.row_hints import recognise, row_hint

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
OWN = "the channels come by themselves, so write "


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
    *(("ELA", args, f"{OWN}ELA, []") for args in ("[1024]", "[256]", "[c1]", "[c1, c2]", "[64, 64]", "[512, 16]")),
    *(("ELA", args, f"{OWN}ELA, [{{kernel_size: 7}}]") for args in ("[512, 7]", "[c1, 7]", "[512, 512, 7]", "[7]")),
    ("ELA", "[512, B, identity]", f"{OWN}ELA, [B, identity]"),
    ("CBAM", "[1024]", f"rd_ratio must be above 0 and at most 1, got 1024; {OWN}CBAM, []"),
    ("CBAM", "[1024, 7]", f"{OWN}CBAM, [{{spatial_kernel_size: 7}}]"),
    ("CBAM", "[c1]", f"{OWN}CBAM, []"),
    ("CBAM", "[{spatial_kernel_size: 4}]", "CbamModule(160, 0.0625, None, 1, 4) fails on a map of 160 channels: "),
    ("SE", "[16]", f"at most 1, got 16; {OWN}SE, [], or [{{rd_ratio: 0.0625}}] to divide them by 16"),
    ("SE", "[64, 16]", f"{OWN}SE, [], or [{{rd_ratio: 0.0625}}] to divide them by 16"),
    ("SE", "[{rd_ratio: 16}]", "rd_ratio must be above 0 and at most 1, got 16"),
    ("SE", "[true]", "rd_ratio must be above 0 and at most 1, got True"),
    ("SE", "[{rd_channels: 1024}]", "rd_channels must be a number from 1 to the 160 channels, got 1024"),
    ("SE", "[{rd_divisor: 100000}]", "rd_divisor must be a number from 1 to the 160 channels, got 100000"),
    ("SE", "[0.25, 8]", "rd_ratio has no effect beside rd_channels; leave it out"),
    ("SE", "[{gate_layer: none}]", "fails on a map of 160 channels: KeyError: 'none'; allowed: rd_ratio, rd_channels"),
    ("SE", "[{ratio: 0.25}]", "unknown key 'ratio', did you mean 'rd_ratio'? allowed, in this order or named"),
    ("CA", "[32]", f"{OWN}CA, [], or [{{rd_ratio: 0.03125}}] to divide them by 32"),
    ("CA", "[{se_factor: 100}]", "se_factor must be above 0 and at most 1, got 100"),
    ("ECA", "[3]", f"kernel_size follows from the channels; {OWN}ECA, []"),
    ("ECA", "[1024, 3]", f"kernel_size follows from the channels; {OWN}ECA, []"),
    ("ECA", "[{kernel_size: 3}]", "kernel_size has no effect in a row"),
    ("ECA", "[{rd_ratio: 0.5}]", "rd_ratio has no effect without use_mlp: true"),
    ("Reduction", "[128]", f"{OWN}Reduction, []; if it is reduction that you mean, name it: [{{reduction: 128}}]"),
    ("Reduction", "[160]", f"{OWN}Reduction, []"),
    ("Reduction", "[c1]", f"{OWN}Reduction, []"),
    ("Reduction", "[1024]", "Reduction(160, 1024) fails on a map of 160 channels: "),
    ("Reduction", "[16, 3]", "2 args; allowed, in this order or named in one mapping: reduction"),
    ("Plain", "[160]", f"{OWN}Plain, []"),
]


@pytest.mark.parametrize(("module", "args", "said"), REFUSED)
def test_rows_as_others_write_them_are_refused_with_the_remedy_and_nothing_large_is_built(module, args, said):
    pytest.importorskip("timm")
    built = []
    register = torch.nn.modules.module.register_module_parameter_registration_hook
    hook = register(lambda _, __, parameter: built.append(0 if parameter is None else parameter.numel()))
    try:
        with pytest.raises(RowError) as caught:
            build(module, args)
    finally:
        hook.remove()
    assert str(caught.value).startswith(f"{module} row 2 [-1, 1, {module}, [")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert max(built, default=0) < 400_000


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


def test_trying_a_rows_args_leaves_the_random_generator_alone():
    pytest.importorskip("timm")
    from timm.layers.squeeze_excite import SEModule

    torch.manual_seed(1)
    weight = SEModule(160, 0.25).fc1.weight
    torch.manual_seed(1)
    rows = [[-1, 1, "SE", [0.25]]]
    from ultralytics.nn.tasks import parse_model

    assert torch.equal(parse_model({"backbone": rows, "head": [], "nc": 1}, 160, False)[0][0].fc1.weight, weight)


KNOWN = known_blocks()
NAMES = {
    "ELA": "ela ELA_Block ELABlock ELAAttention ELA_attention EfficientLocalizationAttention EfficientLocalAttention "
    "Efficient_Localization_Attention MyELA ELAv2 ELALayer",
    "CA": "ca CoordAtt CoordAttention CoordinateAttention CoordAttn CABlock CA_Block Coord_Att",
    "CBAM": "cbam CBAMBlock CBAM_Block CbamModule",
    "ECA": "eca eca_layer ECABlock ECAAttention EfficientChannelAttention ECA_Module",
    "SE": "se SEAttention SEBlock SELayer SE_Block SEModule SqueezeExcite SqueezeAndExcitation",
}


@pytest.mark.parametrize("block", NAMES)
def test_what_others_call_a_block(block):
    for name in NAMES[block].split():
        hint = f"{name} is {block} here: write [-1, 1, {block}, []], the channels come by themselves"
        assert row_hint(name, KNOWN) == hint
    assert row_hint("ELA_S", KNOWN) == "ELA_S is ELA here: write [-1, 1, ELA, [S]], the channels come by themselves"


def test_what_has_a_block_as_a_part():
    for name, stage in {
        "C2f_ELA": "C2f",
        "C3k2_ELA": "C3k2",
        "C2f-ELA": "C2f",
        "ELA_C3k2": "C3k2",
        "C2fELA": "C2f",
    }.items():
        assert row_hint(name, KNOWN) == (
            f"{name} is not known: ELA is a row after {stage} and not part of it; write {stage} here and "
            f"[-1, 1, ELA, []] after it, or let ela-yolo insert model=... after={stage} do it, "
            "which numbers the rows anew"
        )
    assert "CBAM is a row after C3k2" in row_hint("C3k2_CBAM", KNOWN) and "block=CBAM after=C3k2" in row_hint(
        "C3k2_CBAM", KNOWN
    )
    assert "ELA is a row after a stage and not part of it; write the stage here" in row_hint("ELA_HSFPN", KNOWN)
    assert "model=... do it" in row_hint("ELA_HSFPN", KNOWN)


@pytest.mark.parametrize(
    "name", ["Mine", "ELAN2", "GELAN", "SEAM", "CAA", "CAM", "EMA", "SimAM", "Delta", "Case", "Relay", "Conv3"]
)
def test_other_names_are_not_taken_for_a_block(name):
    assert recognise(name, KNOWN) is None and row_hint(name, KNOWN) == ""


def test_the_names_are_known_in_every_message(tmp_path):
    file = tmp_path / "yolov8-named.yaml"
    file.write_text(MODEL.replace("{module}", "CoordAtt").replace("{args}", "[]"))
    with pytest.raises(ModelYamlError, match=r"layer 2: CoordAtt is CA here: write \[-1, 1, CA, \[\]\]"):
        check_rows(file)
    file.write_text(MODEL.replace("{module}", "reduction").replace("{args}", "[]"))
    with pytest.raises(ModelYamlError, match="layer 2: reduction is Reduction here"):
        check_rows(file)
    with pytest.raises(InputError, match="there is no block CBAMBlock; CBAM is meant: block=CBAM;"):
        insert("yolov8n.yaml", block="CBAMBlock")
    with pytest.raises(InputError, match="there is no block C2f_ELA; ELA is meant: block=ELA after=C2f;"):
        insert("yolov8n.yaml", block="C2f_ELA")
