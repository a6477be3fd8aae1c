"""Training with Ultralytics' optimizers and numeric settings: short runs on a slice of the scenes, in this process."""

import copy
import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import FEW, REPO
from helpers import narrow, since
from ultralytics import YOLO

from ela_yolo import ELA

OPTIMIZERS = (
    "auto",
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSProp",
    pytest.param("MuSGD", marks=since("8.4.0")),
)


@pytest.fixture
def train(tmp_path):
    thin = tmp_path / "yolov8n-thin.yaml"
    thin.write_text(narrow((REPO / "cfg/yolov8-ela.yaml").read_text(encoding="utf-8"), 0.125), encoding="utf-8")

    def run(weights=thin, callbacks=None, **keys):
        model = YOLO(weights)
        for event, callback in (callbacks or {}).items():
            model.add_callback(event, callback)
        small = {"fraction": 0.05, "imgsz": 64, "batch": 4, "nbs": 4, "epochs": 1, "workers": 0}
        quiet = {"plots": False, "val": False, "project": str(tmp_path), "verbose": False}
        model.train(**{"data": str(FEW), **small, **quiet, **keys})
        return model.trainer

    return run


def test_two_deterministic_trainings_give_equal_weights(train):
    first, second, other = (train(deterministic=True, seed=seed, optimizer="AdamW") for seed in (0, 0, 1))
    states = [trainer.ema.ema.state_dict() for trainer in (first, second, other)]
    assert moved(first) and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["model.3.gn.bias"], states[2]["model.3.gn.bias"])


def moved(trainer):
    """Whether every ELA block left what it starts as."""
    layers = [layer for layer in trainer.ema.ema.modules() if isinstance(layer, ELA)]
    learned = [bool(layer.gn.bias.any()) and not bool((layer.gn.weight == 1).all()) for layer in layers]
    return len(learned) == 4 and all(learned) and all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_and_leaves_norms_undecayed(optimizer, train):
    trainer = train(optimizer=optimizer, lr0=0.001)
    assert moved(trainer)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for layer in (3, 6, 9, 12):
        block = trainer.model.model[layer]
        assert decay[id(block.gn.weight)] == decay[id(block.gn.bias)] == 0
        assert decay[id(block.conv.weight)] > 0


SETTINGS = {
    "one image a batch": {"batch": 1, "nbs": 1},
    "gradients of four batches": {"nbs": 16, "warmup_epochs": 0, "epochs": 2},
    "a size that is no multiple of the stride": {"imgsz": 70},
    "several sizes": {"imgsz": 96, "multi_scale": 0.3},
    "amp": {"amp": True},
}


@pytest.mark.parametrize("keys", SETTINGS.values(), ids=SETTINGS)
def test_settings(keys, train):
    assert moved(train(optimizer="AdamW", **keys))


def test_gradients_are_accumulated(train):
    steps = []

    def count(trainer):
        block = trainer.model.model[3]
        steps.append(block.gn.bias.detach().clone())

    train(optimizer="AdamW", nbs=12, warmup_epochs=0, callbacks={"on_train_batch_end": count})
    assert [bool(bias.any()) for bias in steps] == [False, False, True, True]


def test_training_is_deterministic(train):
    first, second = (train(deterministic=True, seed=3, exist_ok=True).model.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_running_average_follows_every_parameter(train):
    """One step of it, by its formula."""
    before, seen = {}, []

    def remember(trainer):
        before.update({name: tensor.clone() for name, tensor in trainer.ema.ema.state_dict().items()})

    def compare(trainer):
        decay = trainer.ema.decay(trainer.ema.updates)
        for name, parameter in trainer.model.named_parameters():
            if ".gn." in name or name in ("model.3.conv.weight", "model.12.conv.weight"):
                expected = decay * before[name] + (1 - decay) * parameter.detach()
                torch.testing.assert_close(trainer.ema.ema.state_dict()[name], expected)
                seen.append(name)
        remember(trainer)

    train(optimizer="AdamW", callbacks={"on_train_start": remember, "on_train_batch_end": compare})
    assert len(seen) == 4 * 10  # four batches, four blocks' norms, two convolutions


SMALL = """
nc: 5
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, ELA, []]
head:
  - [[3], 1, Detect, [nc]]
"""


@pytest.mark.nightly
def test_compiled_training(train, tmp_path):
    """With Ultralytics' own key, where it finds a compiler; of a small model, for that takes long."""
    if not shutil.which("g++") or not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        pytest.skip("torch.compile needs g++ and Python.h, and here they are not")
    (tmp_path / "small.yaml").write_text(SMALL)
    trainer = train(tmp_path / "small.yaml", optimizer="AdamW", compile=True)
    assert hasattr(trainer.model, "_orig_mod"), "Ultralytics left the model uncompiled"
    (block,) = (layer for layer in trainer.model.modules() if isinstance(layer, ELA))
    assert block.gn.bias.any() and block.gn.bias.isfinite().all()


def test_a_block_compiles_whole():
    torch.compiler.reset()
    block, x = ELA(16), torch.randn(2, 16, 5, 7)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))


@pytest.fixture(scope="module")
def model(retrained):
    return YOLO(retrained / "weights/best.pt").model.float().eval()


@pytest.fixture(scope="module")
def batch():
    from ultralytics.utils import ASSETS
    from ultralytics.utils.patches import imread

    pixels = torch.from_numpy(imread(str(ASSETS / "bus.jpg"))[:128, :96].copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def test_bfloat16_autocast_is_close_to_float32(model, batch):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(batch)[0]
    with torch.no_grad():
        exact = model(batch)[0]
    assert (low[:, 4:] - exact[:, 4:]).abs().max() < 0.05  # probabilities
    assert not torch.equal(low, exact)


def test_gradients_pass_in_bfloat16():
    torch.manual_seed(0)
    block, x = ELA(32, gate="identity"), torch.randn(2, 32, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        (block(x) * torch.linspace(-1, 1, 9)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert block.gn.weight.grad.any() and block.gn.bias.grad.any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float16(device, model, batch):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    half = copy.deepcopy(model).to(device).half()
    with torch.no_grad():
        low, exact = half(batch.to(device).half())[0].float().cpu(), model(batch)[0]
    assert (low[:, 4:] - exact[:, 4:]).abs().max() < 0.02


def test_predict_with_half(retrained):
    """On a CPU Ultralytics takes float32 nevertheless."""
    from ultralytics.utils import ASSETS

    boxes = [
        YOLO(retrained / "weights/best.pt").predict(ASSETS / "bus.jpg", imgsz=96, half=half, conf=0.001, verbose=False)
        for half in (False, True)
    ]
    assert len(boxes[0][0]) and len(boxes[0][0]) == len(boxes[1][0])


def test_channels_last(model, batch):
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        output = last(batch.contiguous(memory_format=torch.channels_last))[0]
        torch.testing.assert_close(output, model(batch)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("gate", ["paper", "residual", "identity"])
def test_a_block_does_not_hide_nan_and_inf(gate, value):
    block, x = ELA(16, gate=gate), torch.ones(1, 16, 4, 4)
    x[0, 3, 1, 2] = value
    assert not block(x)[0, 3, 1, 2].isfinite()


def test_nan_weights_are_reported_by_ultralytics(train, caplog):
    """As with any other layer: a warning in the first epoch, its recovery in later ones."""
    from ultralytics.utils import LOGGER

    def poison(trainer):
        trainer.model.model[3].gn.bias.data.fill_(float("nan"))

    LOGGER.addHandler(caplog.handler)
    with suppress(RuntimeError):  # once it gives up
        train(optimizer="AdamW", epochs=2, callbacks={"on_train_epoch_start": poison})
    LOGGER.removeHandler(caplog.handler)
    assert "Loss NaN/Inf detected" in caplog.text
