"""What older releases of Ultralytics do otherwise: their functions by the names and in the form of the newest."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def non_max_suppression(*args: Any, **kwargs: Any) -> Any:
    """Call Ultralytics' NMS."""
    try:
        from ultralytics.utils.nms import non_max_suppression as nms
    except ImportError:  # before 8.3.190
        from ultralytics.utils.ops import non_max_suppression as nms  # type: ignore[attr-defined, no-redef]
    return nms(*args, **kwargs)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper of several GPUs around it."""
    try:
        from ultralytics.utils.torch_utils import unwrap_model as unwrap
    except ImportError:  # before 8.3.196
        from ultralytics.utils.torch_utils import de_parallel as unwrap  # type: ignore[attr-defined, no-redef]
    unwrapped: nn.Module = unwrap(model)
    return unwrapped


def trained_network(trainer: Any) -> nn.Module:
    """Return the model that is trained; with ``distill_model=`` this is the student, not the teacher."""
    model = unwrap_model(trainer.model)
    return unwrap_model(getattr(model, "student_model", model))


def load_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML."""
    try:
        from ultralytics.utils import YAML
    except ImportError:  # before 8.3.125
        from ultralytics.utils import yaml_load  # type: ignore[attr-defined]

        return dict(yaml_load(file))
    return dict(YAML.load(file))


def check_dataset(data: str, split: str) -> dict[str, Any]:
    """Return a data set's mapping, with its folders, once the images of the split are there."""
    from ultralytics.data.utils import check_det_dataset

    takes_split = "split" in inspect.signature(check_det_dataset).parameters  # since 8.4.92; before, val is checked
    return dict(check_det_dataset(data, split=split) if takes_split else check_det_dataset(data))


def file_of(result: Any, source: Any) -> Path:
    """Return the file of a result. Some releases from 8.4.60 to 8.4.108 call those of a list ``image0.jpg``."""
    number = re.fullmatch(r"image(\d+)\.jpg", str(result.path))
    if number and isinstance(source, list) and isinstance(source[int(number[1])], str):
        return Path(source[int(number[1])])
    return Path(result.path)


def network_of(backend: Any) -> nn.Module:
    """Return the PyTorch model of an ``AutoBackend``."""
    network: nn.Module = getattr(backend, "backend", backend).model  # before 8.4.23 it holds the model itself
    return network


def choose_branch(net: Any, end2end: bool) -> None:
    """Let a head of two branches give the one of the file; before 8.4.8 it has one, or the file holds the same."""
    prop = getattr(type(net), "end2end", None)
    if isinstance(prop, property) and prop.fset is not None:
        net.end2end = end2end


def exported_outputs(output: tuple[Any, ...]) -> Any:
    """Return what the exported file of a model gives, of what the model gives; the rest is for training."""
    exported, for_training = output[0], output[-1]
    prototypes = isinstance(exported, torch.Tensor) and isinstance(for_training, tuple) and len(for_training) == 3
    return (exported, for_training[2]) if prototypes else exported  # of a segmenter, before 8.4


def bits_of(args: Mapping[str, Any]) -> Any:
    """Return the precision of an export by its keys: 32, 16 or 8 bits."""
    if args.get("quantize"):
        return args["quantize"]
    return 8 if args.get("int8") else 16 if args.get("half") else 32  # these are quantize since 8.4.108


def export_takes(key: str, name: str) -> bool:
    """Return whether an export to a format takes a key; before 8.3.53 every format takes each."""
    from ultralytics.engine.exporter import export_formats

    table = export_formats()
    return "Arguments" not in table or key in dict(zip(table["Argument"], table["Arguments"], strict=True))[name]
