"""Training with Ultralytics' optimizers and numeric settings: short runs on a slice of the scenes, in this process."""

import shutil
import sysconfig
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
    "AdamW",
    *(pytest.param(name, marks=pytest.mark.nightly) for name in ("Adam", "Adamax", "NAdam", "RAdam", "RMSProp")),
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


@pytest.mark.nightly
@pytest.mark.parametrize("keys", SETTINGS.values(), ids=SETTINGS)
def test_settings(keys, train):
    assert moved(train(optimizer="AdamW", **keys))


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
