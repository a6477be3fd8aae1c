"""Finds the blocks of a model, whatever wraps it."""

from __future__ import annotations

from torch import nn

from ela_yolo.ela import ELA
from ela_yolo.host.blocks import is_block
from ela_yolo.host.older_releases import network_of
from ela_yolo.identity_start import IdentityStart


def ela_blocks(model: nn.Module) -> dict[str, ELA]:
    """Return the ELA blocks of a model by layer, in order.

    In a model of Ultralytics a layer is ``"3"``, or ``"3.0"`` where the row repeats the block. In any other module the
    key is the path of the block.

    Args:
        model: A model, or a wrapper of Ultralytics or PyTorch around it: YOLO, AutoBackend, DDP, ``torch.compile``.
    """
    return {layer: block for layer, block in all_blocks(model).items() if isinstance(block, ELA)}


def all_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return all blocks of a model, ELA and others, by layer; as ``ela_blocks`` does."""
    from ultralytics.nn.tasks import BaseModel

    model = _unwrapped(model)
    prefix = "model." if isinstance(model, BaseModel) else ""
    found = {name: each for name, each in model.named_modules() if not isinstance(each, nn.Sequential)}
    inner = {f"{name}.block" for name, each in found.items() if isinstance(each, IdentityStart)}
    return {name.removeprefix(prefix): each for name, each in found.items() if is_block(each) and name not in inner}


def _unwrapped(model: nn.Module) -> nn.Module:
    from ultralytics.engine.model import Model
    from ultralytics.nn.autobackend import AutoBackend

    if isinstance(model, AutoBackend):
        return _unwrapped(network_of(model))  # which is in no module
    if isinstance(model, Model) and isinstance(model.model, nn.Module):
        return _unwrapped(model.model)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return _unwrapped(compiled) if isinstance(compiled, nn.Module) else model
