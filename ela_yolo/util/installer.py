"""The command that installs packages into this environment: pip's, or uv's where there is no pip."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec

from ela_yolo.util.text import command_line


def installer(action: str, *words: str) -> str:
    """Return a command line that can be run as it is.

    Args:
        action: ``install`` or ``uninstall``.
        words: What follows it: options that pip and uv share, and names of distributions or folders.
    """
    quoted = command_line(*words)
    python = command_line(sys.executable)
    yes = " -y" if action == "uninstall" else ""
    if find_spec("pip"):
        return f"{python} -m pip {action}{yes} {quoted}"
    if shutil.which("uv"):
        return f"uv pip {action} --python {python} {quoted}"
    return f"{python} -m ensurepip && {python} -m pip {action}{yes} {quoted}"
