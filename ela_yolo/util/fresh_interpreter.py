"""Runs Python code in an interpreter of its own, which imports only installed modules."""

from __future__ import annotations

import subprocess
import sys
import tempfile


def run_isolated(code: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in an empty folder, so that it does not import modules of the user's folder.

    It is ended after a time, by ``subprocess.TimeoutExpired``.

    Examples:
        >>> run_isolated("print('hello')", seconds=60).stdout.strip()
        'hello'
    """
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
