"""Python code in a process of its own, apart from whatever lies in the folders that the user works in."""

from __future__ import annotations

import subprocess
import sys
import tempfile


def run_apart(code: str, *args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in an empty folder: modules that lie elsewhere than installed are not imported.

    Args:
        code: The code; what it works on comes by ``args``, so that nothing from a file becomes code.
        args: Its ``sys.argv[1:]``; files by their full paths.
        seconds: How long it may take.

    Raises:
        subprocess.TimeoutExpired: If it takes longer; it is ended then.
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
