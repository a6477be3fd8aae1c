"""The gates of a model's blocks while it runs, and the names of the layers, whatever wraps the model."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import count_hooks
from torch import nn
from ultralytics import YOLO

from ela_yolo import ELA
from ela_yolo.gates.capture import capture_gates, gates_of
from ela_yolo.host.model_blocks import ela_blocks
from ela_yolo.parity.prepare_export import describe_blocks
from ela_yolo.plugin import register

register()
FORMS = ("paper", "residual", "identity")
LAYERS = ["3", "6", "9", "12"]


def block_of(form="paper", channels=16, variant="B"):
    """A block whose norm is not as it starts, so that no gate form is trivial."""
    torch.manual_seed(0)
    block = ELA(channels, variant, form)
    nn.init.normal_(block.gn.weight, 1, 0.3)
    nn.init.normal_(block.gn.bias, 0, 0.3)
    return block.eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", ["B", "S"])
def test_the_gates_give_the_output(form, variant):
    block, x = block_of(form, variant=variant), torch.randn(2, 16, 9, 14)
    with capture_gates(block) as latest, torch.no_grad():
        output = block(x)
    gates = latest[""]
    assert gates.map_size == (9, 14) and gates.block == f"ELA-{variant} {form}"
    product = gates.along_h[:, :, :, None] * gates.along_w[:, :, None, :]
    scale = 1 + product if form == "residual" else product
    torch.testing.assert_close(x * scale, output)
    assert all((gate > 0).all() and (gate < 1).all() for gate in gates.sigmoids())


def test_gates_are_of_the_latest_forward_and_need_no_gradient():
    block, first, second = block_of(), torch.randn(1, 16, 8, 8), torch.randn(1, 16, 6, 8)
    with capture_gates(block) as latest:
        block(first.requires_grad_()).sum().backward()
        block(second)
    assert latest[""].map_size == (6, 8) and not latest[""].along_h.requires_grad
    assert torch.equal(latest[""].along_w, gates_of(block, second).along_w)
    assert first.grad is not None


@pytest.fixture
def one_process(tmp_path):
    """The process group of a training on one device."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "nothing": lambda model: model,
    "DDP": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "torch.compile of DDP": lambda model: torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_layers_are_named_as_in_the_layer_table_whatever_wraps_the_model(wrap, one_process):
    model = YOLO("yolov8n-ela.yaml").model.eval()
    assert list(ela_blocks(wrap(model))) == LAYERS
    with capture_gates(wrap(model)) as latest, torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
    assert list(latest) == LAYERS


def test_layers_of_a_yolo_and_of_its_predictor_are_named_alike():
    original: Any = YOLO("yolov8n-ela.yaml")
    assert list(ela_blocks(original)) == LAYERS
    original.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    with capture_gates(original.predictor.model) as latest:
        original.predictor.model(torch.rand(1, 3, 64, 64))
    assert list(latest) == LAYERS


class Nested(nn.Module):
    """A user's module with names that Ultralytics and PyTorch use as well."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(block_of())
        self.backend = nn.ModuleDict({"model": nn.Sequential(block_of())})
        self.module = block_of()
        self.student_model = block_of()

    def forward(self, x):
        return self.student_model(self.module(self.backend["model"](self.model(x))))


def test_every_block_within_a_users_module_has_a_name_of_its_own():
    nested, x = Nested().eval(), torch.randn(1, 16, 6, 5)
    names = ["model.0", "backend.model.0", "module", "student_model"]
    assert list(ela_blocks(nested)) == names
    with capture_gates(nested) as latest:
        nested(x)
    assert list(latest) == names
    assert [each["layer"] for each in describe_blocks(nested)] == names


def test_blocks_within_a_users_layer_have_names_of_their_own():
    model: Any = YOLO("yolov8n-ela.yaml").model
    model.model[2].model = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity(), block_of(channels=32))
    names = ["2.model.3", *LAYERS]
    assert list(ela_blocks(model)) == names
    assert [each["layer"] for each in describe_blocks(model)] == names


def test_hooks_go_even_after_an_error():
    model = YOLO("yolov8n-ela.yaml").model.eval()
    before = count_hooks(model)
    with capture_gates(model):
        assert count_hooks(model) == before + 4
    assert count_hooks(model) == before
    with pytest.raises(RuntimeError), capture_gates(model):
        model(torch.rand(1, 2, 64, 64))  # two channels
    assert count_hooks(model) == before
