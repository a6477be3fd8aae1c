"""Ultralytics' command line: the commands that it knows, the hand-over to it, and its reading of ``key=value``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ela_yolo.errors import InputError
from ela_yolo.util.quiet import quiet
from ela_yolo.util.text import did_you_mean


def modes_and_tasks() -> tuple[str, ...]:
    """Return the words with which a command of Ultralytics starts."""
    from ultralytics.cfg import MODES, TASKS

    return (*MODES, *TASKS)


def run_ultralytics(args: Sequence[str]) -> None:
    """Run the command ``yolo`` with these arguments in this process."""
    from ultralytics.cfg import entrypoint

    sys.argv[1:] = args  # the list that Ultralytics reads
    entrypoint()


def ultralytics_value(key: str, written: str, own_keys: Iterable[str]) -> Any:
    """Return the value of one of Ultralytics' keys, read as Ultralytics does: a number, True, None, a list or a text.

    Args:
        key: The key.
        written: Its value as it is written.
        own_keys: The command's own keys, which the message for an unknown key may propose.
    """
    from ultralytics.cfg import check_dict_alignment, parse_key_value_pair
    from ultralytics.utils import DEFAULT_CFG_DICT

    _, value = parse_key_value_pair(f"{key}={written}")
    try:
        with quiet():  # Ultralytics prints its help
            check_dict_alignment(DEFAULT_CFG_DICT, {key: value})
    except SyntaxError:
        raise InputError(f"unknown key '{key}'{did_you_mean(key, (*DEFAULT_CFG_DICT, *own_keys))}") from None
    return value
