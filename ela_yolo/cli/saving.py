"""Saves what a command has found, after it is on the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ela_yolo.errors import InputError
from ela_yolo.util.console import say


def save_result(save: Callable[[], Path | str], asked: bool, remedy: str = "save= names another place") -> None:
    """Save a result, and say where it is.

    Where nobody asked for the file, a folder that cannot be written to costs one line and not the command's success.

    Args:
        save: Saves the result, and returns the file.
        asked: Whether the user named the file.
        remedy: What to do if the file cannot be written.
    """
    try:
        file = save()
    except OSError as error:
        reason = f"{error.filename} cannot be written: {error.strerror}; the result is above; {remedy}"
        if asked:
            raise InputError(reason) from None
        say(f"ela-yolo: {reason}", sys.stderr)
        return
    say(f"written to {file}")
