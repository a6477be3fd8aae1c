"""What a command and its keys are, and how the value of a key is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ela_yolo.errors import ELAError, InputError


class UsageError(ELAError):
    """A command line is wrong; the exit status is 2."""


@dataclass(frozen=True)
class Key:
    """A key of a command.

    Attributes:
        name: What stands before the ``=``.
        example: The value that the usage line shows.
        help: What the key does, in sentences.
        convert: Turns the written value into the one that the command works with. It raises a ValueError whose message
            goes on after "KEY must be", or an InputError whose message is whole.
        required: Whether the command needs the key.
        unless: The key that may be given instead of a required one.
        such_as: What the error for a missing key proposes, where that is more than the example.
    """

    name: str
    example: str
    help: str
    convert: Callable[[str], Any] = str
    required: bool = False
    unless: str = ""
    such_as: str = ""

    def read(self, written: str) -> Any:
        """Return the value that is written.

        Raises:
            UsageError: If the key does not take it.
        """
        try:
            return self.convert(written)
        except ValueError as error:
            raise UsageError(f"{self.name} must be {error}, got '{written}'") from None
        except InputError as error:
            raise UsageError(str(error)) from None


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: The word that calls it.
        example: The keys of the line in ``ela-yolo --help``.
        summary: What it does, in a sentence.
        about: What else there is to know, in paragraphs.
        keys: The keys that it describes.
        run: Does the work with key -> value, and returns the exit status. None leaves it to Ultralytics' command line.
        other_keys: Says which keys of Ultralytics it takes as well; empty if it takes none.
        needs_ultralytics: Whether ELA must be registered in Ultralytics before the command line is read.
    """

    name: str
    example: str
    summary: str
    about: str
    keys: tuple[Key, ...]
    run: Callable[[dict[str, Any]], int] | None
    other_keys: str = ""
    needs_ultralytics: bool = True


def text_or_none(written: str) -> str | None:
    """Return the text; None for the word None, which in Ultralytics means that a key is not given."""
    return None if written.lower() == "none" else written


def switch(written: str) -> bool:
    """Return True or False."""
    if written.lower() not in ("true", "false"):
        raise ValueError("True or False")
    return written.lower() == "true"


def pixels(written: str) -> int:
    """Return a side of an image."""
    if not written.isdecimal() or int(written) == 0:
        raise ValueError("a positive number of pixels")
    return int(written)


def positive(written: str) -> float:
    """Return a number above 0; a whole one as an int, which a YAML shows without a fraction."""
    value = _number(written)
    if not 0 < value < math.inf:
        raise ValueError("a number above 0")
    return int(value) if value.is_integer() else value


def fraction(written: str) -> float:
    """Return a number from 0 to 1."""
    value = _number(written)
    if not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return value


def share(written: str) -> float:
    """Return a number above 0 and at most 1."""
    value = _number(written)
    if not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1")
    return value


def count(written: str) -> int:
    """Return a positive whole number."""
    if not written.isdecimal() or int(written) == 0:
        raise ValueError("a positive whole number")
    return int(written)


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return math.nan  # which lies in no range


def choice_of(name: str) -> Callable[[str], str]:
    """Return the converter of a key of ``insert`` that has a few words to choose from."""

    def choice(written: str) -> str:
        from ela_yolo.edit.renumbering import CHOICES

        if written not in CHOICES[name]:
            raise ValueError(f"one of {', '.join(CHOICES[name])}")
        return written

    return choice


def without_brackets(written: str) -> str:
    """Return a list as ``insert`` takes it: ``[4, 6]`` and ``['C2f']`` are ``4, 6`` and ``C2f``."""
    return re.sub(r"[\[\]()'\"]", "", written)


def layer_numbers(written: str) -> list[int]:
    """Return the layer numbers in a list: ``6,9`` or ``[6, 9]``."""
    numbers = [number.strip() for number in without_brackets(written).split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ValueError("layer numbers such as 6,9")
    return [int(number) for number in numbers]


def export_format(written: str) -> str:
    """Return Ultralytics' name of an export format."""
    from ela_yolo.parity.runtimes import name_of_format

    return name_of_format(written)


def literal(written: str) -> Any:
    """Return a value as Ultralytics reads it: a number, True, a list, or the text itself."""
    from ultralytics.cfg import smart_value

    return smart_value(written)


def literals(written: str) -> list[Any]:
    """Return a list as Ultralytics reads it; one value is a list too."""
    value = literal(written)
    return list(value) if isinstance(value, list | tuple) else [value]


def names(written: str) -> list[str]:
    """Return the names in a list: ``a.pt,b.pt``, ``[a.pt,b.pt]`` or ``['a.pt']``."""
    value = literal(written)
    if isinstance(value, list | tuple):
        return [str(name) for name in value]
    text = str(value).strip()
    text = text[1:-1] if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")) else text
    return [name.strip().strip("'\"") for name in text.split(",") if name.strip()]
