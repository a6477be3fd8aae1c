"""Trains the gates of blocks at a multiple of the learning rate, ``lr_mult`` in their rows.

Ultralytics' trainer builds an optimizer, which gets one more parameter group for each multiple. The trainer's schedule,
its warm-up and a checkpoint's optimizer state work by groups, so they apply to these groups too. The warm-up of biases
from ``warmup_bias_lr`` does not apply: it is for the trainer's own group of biases. At a multiple of that rate, every
gate would be fully closed or fully open after an epoch, and stay so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ela_yolo.errors import CheckpointError
from ela_yolo.host.calls import is_main_process
from ela_yolo.host.muon import move_conv1d_to_sgd

GROUP = "gates"
# Adam and similar optimizers move a parameter by about the learning rate at each step, whatever its gradient. Above
# this rate, a few steps close or open a gate fully.
LARGEST_ADAPTIVE_LR = 0.5
# With SGD at 1.0, models scored lower than without ELA on BCCD, in six of six seeds (docs/study.md).
LARGEST_SGD_LR = 0.1


def with_own_rates(build_optimizer: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Return a trainer's ``build_optimizer(model, ...)`` whose optimizer trains the gates at their multiples."""

    @functools.wraps(build_optimizer)
    def build(self: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Optimizer:
        optimizer = build_optimizer(self, model, *args, **kwargs)
        move_conv1d_to_sgd(optimizer)
        former = [[*group["params"]] for group in optimizer.param_groups]
        add_gate_param_groups(optimizer, model)
        if getattr(self, "resume", False) and hasattr(optimizer, "register_load_state_dict_pre_hook"):
            optimizer.register_load_state_dict_pre_hook(functools.partial(_take_saved_groups, model, former))
        return optimizer

    return build


def add_gate_param_groups(optimizer: Optimizer, model: nn.Module) -> None:
    """Move gates to parameter groups of their own, one for each multiple.

    These are the gates with a multiple other than 1, and those of blocks that start as identities: the warm-up of
    biases would close or open them before they have learned. A group has the settings of the gates' former group, with
    its own learning rate and without weight decay. The rate is at most 0.1 with SGD, and 0.5 with Adam and similar
    optimizers; a lower rate than asked for is logged.

    Args:
        optimizer: An optimizer before its first step and before it has a scheduler.
        model: The model whose parameters the optimizer has.
    """
    from ultralytics.utils import LOGGER

    multiples = _multiples(model)
    moved: dict[tuple[float, float], dict[str, Any]] = {}
    for group in optimizer.param_groups:
        if "lr_mult" in group:  # the trainer's method called another wrapped one
            continue
        for parameter in group["params"]:
            multiple = multiples.get(id(parameter))
            if multiple is not None:
                moved.setdefault((multiple, group["lr"]), {**group, "params": []})["params"].append(parameter)
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in multiples]
    for (multiple, lr), settings in moved.items():
        rate = lr * multiple
        limit = LARGEST_SGD_LR
        if _is_adaptive(optimizer):
            limit = LARGEST_ADAPTIVE_LR * (1 - settings.get("momentum", 0))  # momentum adds up the former steps
        limit = max(lr, limit)
        if rate > limit:
            rate = limit
            LOGGER.info(
                f"ela-yolo: lr_mult={multiple} of lr={lr} exceeds the limit for {type(optimizer).__name__}, so the "
                f"gates train at {rate:.3g}"
            )
        own = {"lr": rate, "weight_decay": 0.0, "param_group": GROUP, "lr_mult": multiple}
        optimizer.add_param_group({**settings, **own})


def _take_saved_groups(
    model: nn.Module, former: list[list[nn.Parameter]], optimizer: Optimizer, saved: dict[str, Any]
) -> None:
    """Give an optimizer the parameter groups of a saved one, if they differ: before a resumed training loads its state.

    Args:
        model: The model whose parameters the optimizer has.
        former: The parameters of each group before the gates got groups of their own.
        optimizer: The optimizer of the resumed training.
        saved: The state of the saved one.
    """
    from ultralytics.utils import LOGGER

    groups, wanted = optimizer.param_groups, saved["param_groups"]
    multiples, saved_multiples = ([g["lr_mult"] for g in each if "lr_mult" in g] for each in (groups, wanted))
    same = [len(g["params"]) for g in groups] == [len(g["params"]) for g in wanted]
    if same and multiples == saved_multiples:
        return
    if not same:
        gates = {id(gate) for block in _learning_blocks(model) for gate in block.gate_parameters()}
        del groups[len(former) :]
        for group, parameters in zip(groups, former, strict=True):
            group["params"] = [each for each in parameters if not saved_multiples or id(each) not in gates]
        if saved_multiples:
            groups.append({**groups[0], "params": [each for group in former for each in group if id(each) in gates]})
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in wanted]:
            raise CheckpointError(
                "this training run cannot be resumed: its optimizer has other parameter groups than the saved one; "
                "start a new run from its weights, without resume"
            )
    LOGGER.warning(
        f"ela-yolo: the model has lr_mult={multiples or 1}, but the resumed run was started with "
        f"{saved_multiples or 1}; it continues with the saved rates"
    )


def keep_saved_rates(trainer: Any) -> None:
    """Let the schedule of a resumed training use the saved rates: the callback of ``on_pretrain_routine_end``."""
    if not getattr(trainer, "resume", False):
        return
    groups, scheduler = trainer.optimizer.param_groups, trainer.scheduler
    if any("lr_mult" in group for group in groups) or len(groups) != len(scheduler.base_lrs):
        scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
        scheduler.lr_lambdas = [trainer.lf] * len(groups)


def _is_adaptive(optimizer: Optimizer) -> bool:
    """Return whether the optimizer normalises gradients, so that the learning rate alone sets the size of a step."""
    return any(key in optimizer.defaults for key in ("betas", "alpha"))  # Adam and similar ones; RMSprop


def warn_of_ordinary_rates(trainer: Any) -> None:
    """Log a warning if a training does not use the multiples: the callback of ``on_train_start``.

    A user's trainer may build its optimizer without Ultralytics' method.
    """
    from ultralytics.utils import LOGGER

    asked = {parameter for parameter, multiple in _multiples(trainer.model).items() if multiple != 1}
    given = {id(p) for group in trainer.optimizer.param_groups if "lr_mult" in group for p in group["params"]}
    if is_main_process() and asked - given:
        LOGGER.warning(
            f"ela-yolo: {type(trainer).__name__} builds its own optimizer, so the gates train at its learning rate "
            "without lr_mult; call super().build_optimizer() there"
        )


def _multiples(model: nn.Module) -> dict[int, float]:
    """Return the multiples of the gates that have a group of their own: id of a parameter -> multiple."""
    return {
        id(parameter): block.lr_mult
        for block in _learning_blocks(model)
        if block.lr_mult != 1 or block.starts_as_identity
        for parameter in block.gate_parameters()
    }


def _learning_blocks(model: nn.Module) -> Iterable[Any]:
    return [module for module in model.modules() if hasattr(module, "gate_parameters") and hasattr(module, "lr_mult")]
