import copy
import re

import pytest
import torch
from torch import nn

from ela_yolo import ELA

VARIANTS = ("T", "B", "S", "L")
GATES = ("paper", "residual", "identity")
SHAPES = ((2, 64, 20, 12), (1, 32, 1, 9), (1, 16, 7, 1), (1, 16, 1, 1), (3, 48, 33, 33), (1, 256, 5, 80))


def formula(x, conv, gn, gate="paper"):
    """The block as the paper has it, each axis on its own, with nn.GroupNorm's definition spelled out."""

    def strip_gate(z):
        z = nn.functional.conv1d(z, conv.weight, padding=conv.kernel_size[0] // 2, groups=conv.groups)
        b, c, length = z.shape
        grouped = z.reshape(b, gn.num_groups, -1)
        grouped = (grouped - grouped.mean(-1, keepdim=True)) / torch.sqrt(
            grouped.var(-1, unbiased=False, keepdim=True) + gn.eps
        )
        z = grouped.reshape(b, c, length) * gn.weight[:, None] + gn.bias[:, None]
        return 1 / (1 + torch.exp(-z))

    g_h = strip_gate(x.sum(3) / x.shape[3])[..., None]
    g_w = strip_gate(x.sum(2) / x.shape[2])[:, :, None]
    return {"paper": x * g_h * g_w, "residual": x + x * g_h * g_w, "identity": x * 4 * g_h * g_w}[gate]


def randomised(block, seed=0):
    """The block with no parameter at its initial value, so that each one counts."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return block


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_formula_of_the_paper(shape, variant, gate):
    block = randomised(ELA(shape[1], variant, gate))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    single = block(x)
    block, x = block.double(), x.double()
    exact = formula(x, block.conv, block.gn, gate)
    torch.testing.assert_close(block(x), exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(single, exact.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "kernel_size", "groups", "num_groups"),
    [("T", 5, 64, 32), ("B", 7, 64, 16), ("S", 5, 8, 16), ("L", 7, 8, 16)],
)
def test_variants_have_the_papers_numbers(variant, kernel_size, groups, num_groups):
    block = ELA(64, variant)
    assert (block.conv.kernel_size, block.conv.groups, block.gn.num_groups) == ((kernel_size,), groups, num_groups)
    assert sum(p.numel() for p in block.parameters()) == 64 * kernel_size * 64 // groups + 2 * 64


def test_given_numbers_override_the_variants_own():
    block = ELA(64, "S", "identity", 9, 4, 2)
    assert (block.conv.kernel_size, block.conv.groups, block.gn.num_groups) == ((9,), 4, 2)


@pytest.mark.parametrize(
    ("channels", "variant", "groups", "num_groups"),
    [
        (40, "B", 40, 10),
        (80, "T", 80, 20),
        (24, "B", 24, 12),
        (17, "B", 17, 1),
        (17, "S", 1, 1),
        (20, "L", 2, 10),
        (3, "T", 3, 3),
    ],
)
def test_where_the_papers_groups_do_not_divide_the_largest_divisor_is_taken(channels, variant, groups, num_groups):
    block = ELA(channels, variant)
    assert (block.conv.groups, block.gn.num_groups) == (groups, num_groups)
    assert f"groups={groups}, num_groups={num_groups}" in repr(block)
    assert block(torch.randn(2, channels, 6, 5)).shape == (2, channels, 6, 5)


class EfficientLocalizationAttention(nn.Module):
    """The interface of the class that people pass around: its names and its fixed ELA-B numbers."""

    def __init__(self, channel, kernel_size=7):
        super().__init__()
        self.conv = nn.Conv1d(channel, channel, kernel_size, padding=kernel_size // 2, groups=channel, bias=False)
        self.gn = nn.GroupNorm(16, channel)
        self.sigmoid = nn.Sigmoid()


def test_state_dict_of_the_copied_class_loads_strictly_and_gives_the_same_output():
    copied = randomised(EfficientLocalizationAttention(64), seed=3)
    block = ELA(64)
    assert list(block.state_dict()) == ["conv.weight", "gn.weight", "gn.bias"]
    block.load_state_dict(copied.state_dict(), strict=True)
    x = torch.randn(2, 64, 20, 12)
    torch.testing.assert_close(block(x), formula(x, copied.conv, copied.gn))


def test_class_path_is_the_one_that_checkpoints_hold():
    assert f"{ELA.__module__}.{ELA.__qualname__}" == "ela_yolo.ela.ELA"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, so that the strip keeps its length, got 4"),
        ({"kernel_size": 0}, "kernel_size must be a positive integer, got 0"),
        ({"kernel_size": -3}, "kernel_size must be a positive integer, got -3"),
        ({"kernel_size": "7"}, "kernel_size must be a positive integer, got '7'"),
        ({"kernel_size": 7.0}, "kernel_size must be a positive integer, got 7.0"),
        ({"kernel_size": True}, "kernel_size must be a positive integer, got True"),
        ({"groups": 0}, "groups must be a positive integer, got 0"),
        ({"groups": 7}, "groups must divide the 64 channels, got 7"),
        ({"num_groups": "16"}, "num_groups must be a positive integer, got '16'"),
        ({"num_groups": 128}, "num_groups must divide the 64 channels, got 128"),
        ({"variant": "X"}, "variant must be one of T, B, S, L, got 'X'"),
        ({"variant": "b"}, "variant must be one of T, B, S, L, got 'b'"),
        ({"variant": ""}, "variant must be one of T, B, S, L, got ''"),
        ({"variant": ["B"]}, "variant must be one of T, B, S, L, got ['B']"),
        ({"gate": "none"}, "gate must be one of paper, residual, identity, got 'none'"),
        ({"channels": 0}, "channels must be a positive integer, got 0"),
        ({"channels": "64"}, "channels must be a positive integer, got '64'"),
    ],
)
def test_bad_arguments_say_what_was_expected_and_what_came(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ELA(**{"channels": 64, **arguments})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_identity_form_is_the_identity_bit_for_bit_at_initialisation(shape, variant, dtype):
    x = torch.randn(shape).to(dtype)
    x[0, 0, 0, 0] = -0.0
    y = ELA(shape[1], variant, "identity").to(dtype)(x)
    integers = torch.int32 if dtype is torch.float32 else torch.int16
    assert torch.equal(y.view(integers), x.view(integers))


@pytest.mark.parametrize("gate", GATES)
def test_every_parameter_gets_a_gradient(gate):
    torch.manual_seed(0)
    block = ELA(32, gate=gate)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x, target = torch.randn(2, 32, 9, 11, requires_grad=True), torch.randn(2, 32, 9, 11)
    for step in (1, 2):
        optimizer.zero_grad()
        nn.functional.mse_loss(block(x), target).backward()
        still = {name for name, p in block.named_parameters() if not p.grad.abs().max() > 0}
        # The zero norm weight of the identity form hides the convolution from the first gradient only.
        assert still == ({"conv.weight"} if gate == "identity" and step == 1 else set())
        optimizer.step()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("grad", ["expanded", "channels_last", "sliced"])
def test_gradients_are_those_of_the_formula_whatever_the_layout_of_the_incoming_one(grad, gate):
    block = randomised(ELA(16, gate=gate))
    x = torch.randn(2, 16, 9, 11)
    incoming = {
        "expanded": torch.ones(1).expand(x.shape),
        "channels_last": torch.randn(x.shape).to(memory_format=torch.channels_last),
        "sliced": torch.randn(2, 16, 18, 11)[:, :, ::2],
    }[grad]
    for given in (x, x.to(memory_format=torch.channels_last)):
        ours, theirs = given.clone().requires_grad_(), given.clone().requires_grad_()
        found = torch.autograd.grad(block(ours), (ours, *block.parameters()), incoming)
        expected = torch.autograd.grad(
            formula(theirs, block.conv, block.gn, gate), (theirs, *block.parameters()), incoming
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", [(2, 16, 20, 20), (2, 16, 12, 20)])
def test_inference_gives_what_training_gives_and_leaves_the_map_alone(shape, gate):
    block, x = randomised(ELA(16, gate=gate)), torch.randn(shape)
    before, trained = x.clone(), block(x).detach()
    with torch.no_grad():
        assert torch.equal(block(x), trained) and torch.equal(x, before)
    with torch.inference_mode():
        assert torch.equal(block(x), trained) and torch.equal(x, before)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)],
)
def test_both_strips_as_one_batch_give_what_each_gives_alone(dtype, tolerance, layout, gate):
    """With gradients, and under autocast."""
    block, x = randomised(ELA(16, gate=gate)).to(dtype), torch.randn(2, 16, 9, 9)
    found = []
    for alone in (False, True):
        given = x.to(dtype, memory_format=layout).requires_grad_()
        if alone:  # a norm of a class of its own is called for each strip
            block.gn.__class__ = type("GroupNorm", (nn.GroupNorm,), {})
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            y = block(given)
        found.append((y, *torch.autograd.grad(y.float().square().sum(), (given, *block.parameters()))))
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=tolerance, atol=tolerance * max(1, apart.abs().max().item()))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", [(2, 16, 9, 9), (2, 16, 9, 11)])
def test_traced_and_exported_graphs_are_the_formula_as_written(shape, gate):
    block = randomised(ELA(16, gate=gate))
    x, other = torch.randn(shape), torch.randn(3, 16, 12, 7)
    traced = torch.jit.trace(block, x)
    dynamic = {0: torch.export.Dim("b", min=2), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    exported = torch.export.export(block, (x,), dynamic_shapes=(dynamic,)).module()
    symbolic = torch.fx.symbolic_trace(block)
    for graph in (traced, exported, symbolic):
        for given in (x, other):
            torch.testing.assert_close(graph(given), block(given))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_half_precision_keeps_the_dtype_and_the_values(dtype, tolerance, gate):
    block = randomised(ELA(64, gate=gate))
    x = torch.randn(2, 64, 20, 12)
    half = copy.deepcopy(block).to(dtype)(x.to(dtype))
    assert half.dtype is dtype
    torch.testing.assert_close(half.float(), block(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("map_dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_dtype_of_the_map(map_dtype, gate):
    block = randomised(ELA(64, gate=gate))
    x = torch.randn(2, 64, 20, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x.to(map_dtype))
    assert y.dtype is map_dtype
    torch.testing.assert_close(y.float(), block(x), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("gate", GATES)
def test_channels_last_stays_channels_last(gate):
    block = randomised(ELA(64, gate=gate))
    x = torch.randn(2, 64, 20, 12)
    y = block(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, block(x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", [(2, 16, 9, 11), (2, 16, 9, 9)])
def test_compiles_without_a_graph_break(shape, gate):
    block = randomised(ELA(16, gate=gate))
    x = torch.randn(shape)
    # Not the default backend, which needs a C++ compiler on the machine; what can break is the tracing before it.
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))
