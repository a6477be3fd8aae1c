"""Refuses a model YAML that would run code, since a YAML may come from anywhere.

Ultralytics evaluates ``activation:`` as Python. It also calls any global of its parser that a row names, with the
row's args, so a row could load a checkpoint, which runs code. Here nothing of a YAML is evaluated or called.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from ela_yolo.errors import ModelYamlError
from ela_yolo.host.blocks import names_block
from ela_yolo.host.row_hints import row_hint
from ela_yolo.util.text import did_you_mean

# Other values may be files, which the text encoder would load.
_TEXT_MODEL = re.compile(r"clip:(RN\d+(x\d+)?|ViT-[BL]/\d+(@\d+px)?)|mobileclip2?:\w+")


def refuse_code(name: str, config: Mapping[str, Any]) -> None:
    """Raise an error if the activation of a model YAML is no module of ``torch.nn``, or a row names no layer.

    Args:
        name: The name of the YAML in errors, such as its file.
        config: The YAML as Ultralytics reads it, with rows of four entries.

    Raises:
        ModelYamlError: For the first such entry; the message names the layer.
    """
    activation = config.get("activation")
    if activation and not _is_activation(activation):
        raise ModelYamlError(
            f"{name}: activation: {activation!r} is not a module of torch.nn with plain values, and Ultralytics would "
            "run it as code; write one such as nn.SiLU() or nn.LeakyReLU(0.1)"
        )
    text_model = config.get("text_model")
    if text_model and not (isinstance(text_model, str) and _TEXT_MODEL.fullmatch(text_model)):
        raise ModelYamlError(f"{name}: text_model: {text_model!r} may be a file; name one such as mobileclip:blt")
    for layer, row in enumerate([*config["backbone"], *config["head"]]):
        if _nests_deeper(row, 4):
            raise ModelYamlError(f"{name}: layer {layer} nests lists in lists; write its args as plain values")
        _check_module(f"{name}: layer {layer}", row[2])


def _nests_deeper(value: object, levels: int) -> bool:
    """Return whether lists and mappings nest more deeply; by aliases a short YAML can hold millions of them."""
    if not isinstance(value, list | dict):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(each, levels - 1) for each in inside)


def _is_activation(written: object) -> bool:
    try:
        call = ast.parse(str(written).strip(), mode="eval").body
        if not isinstance(written, str) or not isinstance(call, ast.Call):
            return False
        for value in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(value)
        place, _, kind = ast.unparse(call.func).rpartition(".")
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    named = all(keyword.arg for keyword in call.keywords)  # and not **{...}
    return named and place in ("nn", "torch.nn") and _is_layer(getattr(nn, kind, None))


def _check_module(where: str, module: str) -> None:
    from ultralytics.nn import tasks

    if names_block(module):
        return
    if module.startswith("nn."):
        found: Any = getattr(nn, module[3:], None)
    elif module.startswith("torchvision.ops."):
        found = getattr(import_module("torchvision.ops"), module[16:], None)
    else:
        found = vars(tasks).get(module)
    if _is_layer(found) and not issubclass(found, tasks.BaseModel):  # a model would be built from another YAML
        return
    if found is not None:
        raise ModelYamlError(f"{where}: {module} is no layer, and a model YAML could run code through it")
    known = [name for name, value in vars(tasks).items() if _is_layer(value)]
    hint = row_hint(module) or f"there is no module {module}{did_you_mean(module, known) or '; check its name'}"
    raise ModelYamlError(f"{where}: {hint}")


def _is_layer(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module)
