"""Parts of messages: a similar word, a command line, the reason of an error in one line, a value of bounded length."""

import os
import re
import reprlib
import shlex
import subprocess
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``, did you mean 'WORD'?`` with the most similar known word, case aside; "" if none is similar.

    Examples:
        >>> did_you_mean("yolov8n-elx.yaml", ["yolov8n-ela.yaml", "yolov8n.yaml"])
        ", did you mean 'yolov8n-ela.yaml'?"
    """
    ending = PurePath(word).suffix.lower()  # a common ending says nothing
    by_lower = {name.lower().removesuffix(ending): name for name in known}
    near = get_close_matches(word.lower().removesuffix(ending), by_lower, n=1)
    return f", did you mean '{by_lower[near[0]]}'?" if near else ""


def command_line(*words: str) -> str:
    """Return a command line that can be run as it is, with quotes where the shell needs them."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, without the colours and emojis of Ultralytics."""
    text = re.sub(r"\x1b\[[0-9;]*m|❌\ufe0f?|⚠️|ERROR ", "", str(error))
    return " ".join(text.split()).replace(" .", ".")[:400] or type(error).__name__


def short(value: object) -> str:
    """Return a value of a YAML as text of bounded length, however deeply aliases nest it."""
    if isinstance(value, str):
        return value[:200]
    bounded = reprlib.Repr()
    bounded.maxlevel, bounded.maxlist, bounded.maxdict, bounded.maxstring, bounded.maxother = 3, 12, 12, 100, 100
    return bounded.repr(value)
