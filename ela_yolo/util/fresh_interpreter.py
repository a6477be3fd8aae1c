"""Runs Python code in an interpreter of its own, which imports only installed modules."""

from __future__ import annotations

import subprocess
import sys
import tempfile


def run_isolated(code: str, *args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in an empty folder, so that it does not import modules of the user's folder.

    Args:
        code: The code. It gets its inputs by ``args``, so that no content of a file becomes code.
        args: The ``sys.argv[1:]`` of the code; files by their full paths.
        seconds: The time limit, in s.

    Raises:
        subprocess.TimeoutExpired: If the code takes longer; it is then ended.

    Example:
        >>> run_isolated("import sys; print(sys.argv[1])", "hello", seconds=60).stdout.strip()
        'hello'
    """
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
