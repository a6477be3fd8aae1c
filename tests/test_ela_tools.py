"""The block beside other tools: hooks, changed layers, resets, pruning, and how a checkpoint of it comes back."""

import copy
import io
import json
from functools import partial

import pytest
import torch
from conftest import SHARED
from torch import nn
from torch.nn.utils import parametrizations, prune
from ultralytics import YOLO
from ultralytics.nn.modules import C2f, Conv

import ela_yolo
from ela_yolo import ELA
from ela_yolo.parity.metadata import describe_blocks, is_unmodified
from ela_yolo.plugin import register

register()
GATES = ("paper", "residual", "identity")
HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


def block_of(channels=16, **settings):
    """A block with no parameter at its initial value."""
    block = ELA(channels, **settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return block


def map_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def as_written(block, x):
    """The formula by the block's layers, called as modules."""

    def gate(strip):
        return block.gn(block.conv(strip)).sigmoid()

    product = x * gate(x.mean(3))[:, :, :, None] * gate(x.mean(2))[:, :, None, :]
    return {"paper": product, "residual": x + product, "identity": 4 * product}[block.gate]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", ["conv", "gn"])
def test_hooks_of_a_layer_run_once_for_each_strip(layer, hook):
    block, x, calls = block_of(), map_of(2, 16, 6, 9), []
    expected = block(x)
    getattr(block.get_submodule(layer), hook)(lambda *_: calls.append(layer))
    found = block(x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert calls == [layer, layer]


def test_what_a_hook_returns_is_taken():
    block, x = block_of(), map_of(2, 16, 6, 9)
    block.gn.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    torch.testing.assert_close(block(x), x / 4)


class Doubled(nn.GroupNorm):
    def forward(self, x):
        return 2 * super().forward(x)


def patch_forward(layer):
    forward = type(layer).forward
    layer.forward = lambda strip: 2 * forward(layer, strip)


def replace(block, name, layer):
    setattr(block, name, layer)


CHANGES = {
    "another norm": lambda block: replace(block, "gn", nn.BatchNorm1d(16)),
    "no norm": lambda block: replace(block, "gn", nn.Identity()),
    "another class of norm": lambda block: replace(block, "gn", Doubled(4, 16)),
    "a norm without weights": lambda block: replace(block, "gn", nn.GroupNorm(4, 16, affine=False)),
    "a norm of other groups": lambda block: replace(block, "gn", nn.GroupNorm(2, 16)),
    "another eps": lambda block: setattr(block.gn, "eps", 0.5),
    "forward of the norm": lambda block: patch_forward(block.gn),
    "forward of the convolution": lambda block: patch_forward(block.conv),
    "a longer kernel": lambda block: replace(block, "conv", nn.Conv1d(16, 16, 9, padding=4, groups=16, bias=False)),
    "an even kernel": lambda block: replace(block, "conv", nn.Conv1d(16, 16, 4, padding="same", bias=False)),
    "a convolution and a norm": lambda block: replace(block, "conv", nn.Sequential(block.conv, nn.BatchNorm1d(16))),
    "a bias": lambda block: setattr(block.conv, "bias", nn.Parameter(torch.randn(16))),
    "padding_mode": lambda block: replace(
        block, "conv", nn.Conv1d(16, 16, 7, padding=3, groups=16, bias=False, padding_mode="circular")
    ),
    "dilation": lambda block: block.conv.__dict__.update(dilation=(3,), padding=(9,)),
    "weight_norm": lambda block: parametrizations.weight_norm(block.conv),
    "spectral_norm": lambda block: parametrizations.spectral_norm(block.conv),
    "pruned weights": lambda block: prune.l1_unstructured(block.conv, "weight", 0.5),
    "pruned norm": lambda block: prune.l1_unstructured(block.gn, "weight", 0.5),
}
SAME_VALUES = ("weight_norm", "a convolution and a norm")


@pytest.mark.parametrize("gate", ["paper", "identity"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_counts(change, gate):
    block, x = block_of(gate=gate, num_groups=4), map_of(2, 16, 6, 9)
    before = block(x)
    CHANGES[change](block)
    block.eval()
    found = block(x)
    torch.testing.assert_close(found, as_written(block, x))
    assert torch.allclose(found, before) is (change in SAME_VALUES)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert repr(block).startswith("ELA(")
    assert json.loads(json.dumps(describe_blocks(block)))[0]["gate"] == gate


@pytest.mark.parametrize("change", [{"stride": (2,)}, {"dilation": (2,)}, {"padding": (2,)}, {"weight": (16, 1, 4)}])
def test_settings_that_change_the_length_of_a_strip_are_taken_as_they_are(change):
    """They give no gate for every place; the convolution decides, and not the block."""
    block, x = block_of(), map_of(2, 16, 16, 20)
    for name, value in change.items():
        setattr(block.conv, name, nn.Parameter(torch.randn(value)) if name == "weight" else value)
    if "weight" in change:
        block.conv.padding = (2,)
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        block(x)


@pytest.mark.parametrize(
    "change", [lambda block: block.gn.double(), lambda block: block.conv.double(), nn.Module.double]
)
def test_weights_of_another_dtype_than_the_map_are_refused(change):
    block, x = block_of(), map_of(1, 16, 4, 4)
    change(block)
    with pytest.raises(RuntimeError, match="type"):
        block(x)


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (1, 16, 1, 9), (1, 16, 7, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_a_single_value_in_a_group_is_no_error_where_the_norm_is_called(shape, training):
    block, x = block_of().train(training), map_of(*shape)
    expected = block(x)
    calls = []
    block.gn.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(block(x), expected)
    assert len(calls) == (1 if shape[2] == shape[3] else 2)


def reset_every_module(model):
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def reset_children_first(model):
    model.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)


RESETS = [reset_every_module, reset_children_first, lambda net: net[1].reset_parameters()]


def unpickled(block):
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def as_before(block):
    """As a checkpoint of an earlier version gives it."""
    block.__dict__["channels"] = 16
    block.gn.__dict__.pop("reset_parameters", None)
    return unpickled(block)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("origin", [lambda block: block, copy.deepcopy, unpickled, as_before])
@pytest.mark.parametrize("gate", GATES)
def test_a_reset_gives_a_block_as_it_starts(gate, origin, reset):
    block = origin(block_of(gate=gate))
    net = nn.Sequential(nn.Conv2d(3, 16, 3), block)
    former = block.conv.weight.detach().clone()
    reset(net)
    fresh = ELA(16, gate=gate)
    assert torch.equal(block.gn.weight, fresh.gn.weight) and torch.equal(block.gn.bias, fresh.gn.bias)
    assert not torch.equal(block.conv.weight, former)
    assert block.conv.weight.abs().max() <= 7**-0.5  # as nn.Conv1d draws it
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(block(x), x) is (gate == "identity")


def test_a_reset_of_a_whole_yolo_keeps_the_identity(tmp_path):
    ela_yolo.insert("yolov8n.yaml", gate="identity", save=tmp_path / "yolov8n-identity.yaml")
    model = YOLO(tmp_path / "yolov8n-identity.yaml")
    blocks = [module for module in model.model.modules() if isinstance(module, ELA)]
    for block in blocks:
        nn.init.ones_(block.gn.bias)
    model.reset_weights()
    assert len(blocks) == 4 and not any(block.gn.weight.any() or block.gn.bias.any() for block in blocks)


def test_a_checkpoint_names_no_class_of_ours_but_the_block():
    file = io.BytesIO()
    torch.save(block_of(gate="identity"), file)
    with torch.serialization.safe_globals([ELA, nn.Conv1d, nn.GroupNorm]):
        file.seek(0)
        block = torch.load(file, weights_only=True)
    reset_every_module(block)
    assert not block.gn.weight.any()


def test_a_reset_passes_by_what_cannot_be_reset():
    block = block_of(gate="identity")
    block.conv = nn.Identity()
    block.reset_parameters()
    assert not block.gn.weight.any()


@pytest.mark.parametrize("gate", GATES)
def test_factory_keywords_are_those_of_pytorch(gate):
    block = ELA(16, gate=gate, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {("meta", torch.float64)}
    block.to_empty(device="cpu")
    reset_every_module(block)
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    assert block(x).isfinite().all() and torch.equal(block(x), x) is (gate == "identity")
    assert ELA(16).conv.weight.dtype is torch.float32


def test_a_block_of_an_earlier_version_is_right():
    block, x = block_of(), map_of(1, 16, 4, 5)
    expected, shown = block(x), repr(block)
    assert shown.splitlines()[1] == "  16, variant=B, gate=paper, kernel_size=7, groups=16, num_groups=16"
    former = as_before(block)
    assert torch.equal(former(x), expected) and repr(former) == shown and former.channels == 16
    assert list(former.state_dict()) == ["conv.weight", "gn.weight", "gn.bias"]


class SplitC2f(nn.Module):
    """C2f with a convolution for each half of what it splits, as Torch-Pruning's own example has it."""

    def __init__(self, c2f):
        super().__init__()
        halves = []
        for rows in (slice(0, c2f.c), slice(c2f.c, 2 * c2f.c)):
            half = Conv(c2f.cv1.conv.in_channels, c2f.c, 1)
            whole = c2f.cv1.state_dict()
            half.load_state_dict({key: value[rows] if value.ndim else value for key, value in whole.items()})
            half.bn.eps = c2f.cv1.bn.eps
            halves.append(half)
        self.halves, self.m, self.cv2 = nn.ModuleList(halves), c2f.m, c2f.cv2
        self.i, self.f, self.type = c2f.i, c2f.f, c2f.type

    def forward(self, x):
        parts = [half(x) for half in self.halves]
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


@pytest.fixture
def pruned():
    """Prune half of the channels of a network, its last layer excepted."""
    tp = pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed: pip install torch-pruning")

    def prune_half(net, image, last):
        importance = tp.importance.MagnitudeImportance()
        pruner = partial(tp.pruner.MagnitudePruner, importance=importance, pruning_ratio=0.5, ignored_layers=[last])
        pruner(net, image).step()
        return net

    return prune_half


def assert_right_in_every_form(block, x):
    channels = block.conv.weight.shape[0]
    settings = block.settings
    assert (settings.channels, block.channels) == (channels, channels)
    assert settings.groups * block.conv.weight.shape[1] == channels and channels % settings.num_groups == 0
    assert f"  {channels}, variant=" in repr(block)
    assert describe_blocks(block)[0]["channels"] == channels
    expected = as_written(block, x)
    torch.testing.assert_close(block(x), expected)
    for form in ("blocked", "pooled"):
        exported = copy.deepcopy(block)
        exported.export_variant = form
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", ["B", "S"])
@pytest.mark.parametrize("shape", [(2, 64, 9, 9), (2, 64, 6, 11), (1, 64, 8, 8)])
def test_the_forms_for_exports_give_what_the_formula_gives(shape, variant, gate):
    block, x = block_of(64, variant=variant, gate=gate), torch.randn(shape)
    nn.init.normal_(block.gn.weight, 1, 0.3)
    nn.init.normal_(block.gn.bias, 0, 0.3)
    assert_right_in_every_form(block, x)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", ["T", "B", "S", "L"])
def test_torch_pruning_prunes_a_block(variant, gate, pruned):
    net = nn.Sequential(nn.Conv2d(3, 64, 3), block_of(64, variant=variant, gate=gate), nn.Conv2d(64, 4, 1)).eval()
    image = torch.rand(1, 3, 16, 16)
    pruned(net, image, net[2])
    assert net[1].channels == 32 and net[1].gn.num_channels == 32
    assert_right_in_every_form(net[1], torch.randn(2, 32, 6, 9))
    assert net(image).shape == (1, 4, 14, 14)


@pytest.mark.parametrize("gate", ["paper", "identity"])
def test_torch_pruning_prunes_a_whole_yolo_which_runs_and_trains_on(gate, pruned, tmp_path):
    source = SHARED / "weights/yolov8n.pt"
    if source.is_file():
        ela_yolo.insert(source, gate=gate, save=tmp_path / "ela.pt")
        net = YOLO(tmp_path / "ela.pt").model.float()
    else:
        ela_yolo.insert("yolov8n.yaml", gate=gate, save=tmp_path / "yolov8n-pruned.yaml")
        net = YOLO(tmp_path / "yolov8n-pruned.yaml").model
    for index, layer in enumerate(net.model):
        if type(layer) is C2f:
            net.model[index] = SplitC2f(layer)
    net.eval().requires_grad_(True)
    image = torch.rand(2, 3, 64, 64)
    before = sum(parameter.numel() for parameter in net.parameters())
    pruned(net, image[:1], net.model[-1])
    assert sum(parameter.numel() for parameter in net.parameters()) < before / 2
    blocks = [module for module in net.modules() if isinstance(module, ELA)]
    assert [block.channels for block in blocks] == [16, 32, 64, 128]
    for block in blocks:
        assert_right_in_every_form(block, torch.randn(1, block.channels, 4, 7))
    with torch.no_grad():
        assert net(image)[0].shape == (2, 84, 84)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    former = [block.gn.bias.detach().clone() for block in blocks]
    sum(output.square().mean() for output in net(image).values() if isinstance(output, torch.Tensor)).backward()
    optimizer.step()
    assert all(not torch.equal(block.gn.bias, bias) for block, bias in zip(blocks, former, strict=True))
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_block_whose_layers_were_changed_is_exported_as_it_is(retrained, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = YOLO(retrained / "weights/best.pt")
    blocks = [module for module in model.model.modules() if isinstance(module, ELA)]
    blocks[0].conv.padding_mode = "replicate"
    parametrizations.weight_norm(blocks[1].conv)
    assert [is_unmodified(block.conv, block.gn) for block in blocks] == [False, False, True, True]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.model.float().eval()(image)[0]
        blocks[0].conv.padding_mode = "zeros"
        unchanged = model.model(image)[0]
        blocks[0].conv.padding_mode = "replicate"
    model.ckpt_path = model.model.pt_path = str(tmp_path / "changed.pt")  # which names the file
    file = model.export(format="onnx", imgsz=64, simplify=False)
    (found,) = runtime.InferenceSession(file).run(None, {"images": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(unchanged, expected, rtol=1e-3, atol=1e-3)
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert operators.count("AveragePool") == 4  # those of the two blocks that are as they were built
