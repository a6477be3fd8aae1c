"""The block beside other tools: resets, checkpoints, and the forms for exports."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from ultralytics import YOLO

import ela_yolo
from ela_yolo import ELA
from ela_yolo.parity.prepare_export import describe_blocks, is_unmodified
from ela_yolo.plugin import register

register()
GATES = ("paper", "residual", "identity")


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


RESETS = [reset_every_module, reset_children_first]


def unpickled(block):
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("origin", [lambda block: block, copy.deepcopy, unpickled])
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


@pytest.mark.parametrize("gate", GATES)
def test_factory_keywords_are_those_of_pytorch(gate):
    block = ELA(16, gate=gate, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {("meta", torch.float64)}
    block.to_empty(device="cpu")
    reset_every_module(block)
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    assert block(x).isfinite().all() and torch.equal(block(x), x) is (gate == "identity")
    assert ELA(16).conv.weight.dtype is torch.float32


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
        exported.graph_form = form
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", ["B", "S"])
@pytest.mark.parametrize("shape", [(2, 64, 9, 9), (2, 64, 6, 11), (1, 64, 8, 8)])
def test_the_forms_for_exports_give_what_the_formula_gives(shape, variant, gate):
    block, x = block_of(64, variant=variant, gate=gate), torch.randn(shape)
    nn.init.normal_(block.gn.weight, 1, 0.3)
    nn.init.normal_(block.gn.bias, 0, 0.3)
    assert_right_in_every_form(block, x)


def test_a_block_whose_layers_were_changed_is_exported_as_it_is(retrained, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = YOLO(retrained / "weights/best.pt")
    blocks = [module for module in model.model.modules() if isinstance(module, ELA)]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        unchanged = model.model.float().eval()(image)[0]
    prune.l1_unstructured(blocks[0].conv, "weight", 0.9)
    parametrizations.weight_norm(blocks[1].conv)
    assert [is_unmodified(block.conv, block.gn) for block in blocks] == [False, False, True, True]
    with torch.no_grad():
        expected = model.model(image)[0]
    model.ckpt_path = model.model.pt_path = str(tmp_path / "changed.pt")  # which names the file
    file = model.export(format="onnx", imgsz=64, simplify=False)
    (found,) = runtime.InferenceSession(file).run(None, {"images": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(unchanged, expected, rtol=1e-3, atol=1e-3)
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert operators.count("AveragePool") == 4  # those of the two blocks that are as they were built
