"""Prints in any terminal: a result must not be lost because it cannot be shown."""

from __future__ import annotations

import os
import sys
from typing import Any


def say(text: object = "", file: Any = None) -> None:
    """Print a text at once, whatever the encoding of the output, and also if nobody reads it any more.

    Characters that the encoding lacks are written as escapes. After a broken pipe or with a full disk, the rest of the
    output of this process is dropped.

    Args:
        text: The text.
        file: The stream; None means the standard output.

    Examples:
        >>> say("done")
        done
    """
    stream = sys.stdout if file is None else file
    if stream is None:  # a program without a console
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(str(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError:
        drop_output(stream)


def drop_output(stream: Any) -> None:
    """Send what is still to be written to a stream nowhere, so that no later write and no exit fails."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # not a stream with a file of its own
        pass
