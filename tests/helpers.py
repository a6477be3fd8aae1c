"""What several test modules do to models and files."""

import copy
import re

import onnx
import pytest
import torch
import ultralytics
from ultralytics.utils.checks import check_version

FAMILIES_SINCE = {"yolo12": "8.3.78", "yolo26": "8.4.0"}


def since(version):
    """A mark that skips a test where Ultralytics is older than what it is about."""
    here = ultralytics.__version__
    return pytest.mark.skipif(not check_version(here, f">={version}"), reason=f"ultralytics {here} is before {version}")


def of_family(name, *marks):
    """A parameter, the name of a model, that is skipped where Ultralytics does not have its family yet."""
    known = [since(version) for family, version in FAMILIES_SINCE.items() if name.startswith(family)]
    return pytest.param(name, marks=[*known, *marks])


def narrow(text, width=0.25):
    """A model YAML whose scales are all as narrow as n, and as deep as they were: the same structure of less weight."""
    return re.sub(r"(?m)^(  [a-z]: \[[\d.]+), [\d.]+,", rf"\1, {width},", text)


# `ela-yolo profile ...` of few rounds, for where the times do not matter.
SHORT_PROFILE = """
import sys
from ela_yolo.cli.main import main
from ela_yolo.cost import measure
measure.ROUNDS, measure.TRAINING_ROUNDS = 6, 2
sys.exit(main(["profile", *sys.argv[1:]]))
"""


def save(model, file):
    """Save a YOLO that was built from a YAML, which older releases do not; return the file."""
    network = copy.deepcopy(model.model).half()
    torch.save({"model": network, "train_args": {"task": model.task}, "epoch": -1}, file)
    return file


def changed(file, folder, change):
    """A copy of an ONNX file with one thing changed."""
    model = onnx.load(file)
    change(model)
    target = folder / "changed.onnx"
    onnx.save(model, target)
    return target


def calibrate_norms(net, batch):
    """Give BatchNorm the statistics of a batch of images, so that outputs depend on the image; leave it in training."""
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
    with torch.no_grad():
        for _ in range(10):
            net(batch)


def count_hooks(model):
    """The number of forward hooks and pre-hooks in a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
