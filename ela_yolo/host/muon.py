"""Keeps the weights of a Conv1d from Ultralytics' optimizer Muon, which takes matrices."""

from __future__ import annotations

from torch.optim import Optimizer


def move_conv1d_to_sgd(optimizer: Optimizer) -> None:
    """Move weights that are neither matrices nor weights of a Conv2d to groups that MuSGD trains by SGD alone.

    Muon takes matrices. The MuSGD of Ultralytics 8.4.0 to 8.4.107 gives it the weight of a Conv1d too, and fails.
    """
    for group in [group for group in optimizer.param_groups if group.get("use_muon")]:
        others = [parameter for parameter in group["params"] if parameter.ndim not in (2, 4)]
        if others:
            group["params"] = [parameter for parameter in group["params"] if parameter.ndim in (2, 4)]
            optimizer.add_param_group({**group, "params": others, "use_muon": False})
