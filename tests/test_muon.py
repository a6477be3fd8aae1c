"""MuSGD, which Ultralytics takes for long trainings, and weights that are no matrices."""

import torch
from helpers import since
from torch import nn

from ela_yolo import ELA
from ela_yolo.host.muon import move_conv1d_to_sgd


@since("8.4.0")
def test_the_weight_of_a_conv1d_is_trained_by_sgd_alone():
    """All of these in Muon's group, as up to 8.4.107; Muon itself fails on it or takes it for a matrix."""
    from ultralytics.optim import MuSGD

    model = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), ELA(16))
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    group = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005, "use_muon": True}
    optimizer = MuSGD([{**group, "params": weights}])
    move_conv1d_to_sgd(optimizer)
    move_conv1d_to_sgd(optimizer)  # again changes nothing
    muon, sgd = optimizer.param_groups
    assert [id(p) for p in muon["params"]] == [id(weights[0])] and muon["use_muon"]
    assert [id(p) for p in sgd["params"]] == [id(weights[1])] and not sgd["use_muon"]
    assert all(sgd[key] == muon[key] for key in ("lr", "momentum", "nesterov", "weight_decay"))
    before = [weight.detach().clone() for weight in weights]
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
