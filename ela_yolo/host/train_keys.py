"""Checks Ultralytics' train keys before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ela_yolo.errors import InputError
from ela_yolo.util.text import one_line


def default_of(key: str) -> Any:
    """Return Ultralytics' default of a key; None if it has none."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    return DEFAULT_CFG_DICT.get(key)


def check_train_keys(keys: Mapping[str, Any]) -> None:
    """Check that Ultralytics knows the keys and takes their values."""
    from ultralytics.cfg import get_cfg

    try:
        get_cfg(overrides=dict(keys))
    except (SyntaxError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from None
