"""What a command and its keys are, and how a command line is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ela_yolo.errors import InputError, UsageError
from ela_yolo.util.text import did_you_mean


@dataclass(frozen=True)
class Key:
    """A key of a command.

    Attributes:
        name: The word before the ``=``.
        example: A value, for the help.
        help: What the key does, in sentences.
        convert: Converts the written value. It raises a ValueError whose message continues "KEY must be", or an
            InputError with a complete message.
        required: Whether the command needs the key.
    """

    name: str
    example: str
    help: str
    convert: Callable[[str], Any] = str
    required: bool = False


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: The word that calls it.
        example: Its keys in the line of ``ela-yolo --help``.
        summary: What it does, in a sentence.
        about: More about it, in paragraphs.
        keys: Its own keys.
        run: The function that does the work. It takes key -> value and returns the exit status.
        other_keys: A sentence about the keys of Ultralytics that it also takes; empty if it takes none.
        needs_ultralytics: Whether ELA must be registered in Ultralytics before the command line is read.
    """

    name: str
    example: str
    summary: str
    about: str
    keys: tuple[Key, ...]
    run: Callable[[dict[str, Any]], int]
    other_keys: str = ""
    needs_ultralytics: bool = True


def parse(command: Command, args: Sequence[str]) -> dict[str, Any]:
    """Return key -> converted value of the given keys."""
    keys = {key.name: key for key in command.keys}
    given = {}
    for arg in args:
        name, _, written = (part.strip() for part in arg.removeprefix("--").partition("="))
        if not written:
            raise UsageError(f"'{arg}' is not key=value, such as model=best.pt; see ela-yolo {command.name} --help")
        try:
            given[name] = keys[name].convert(written) if name in keys else _other_value(command, name, written)
        except ValueError as error:
            raise UsageError(f"{name} must be {error}, got '{written}'") from None
        except InputError as error:
            raise UsageError(str(error)) from None
    for key in command.keys:
        if key.required and key.name not in given:
            raise UsageError(f"{key.name}= is missing, such as {key.name}={key.example}")
    return given


def _other_value(command: Command, name: str, written: str) -> Any:
    names = [key.name for key in command.keys]
    if not command.other_keys:
        known = did_you_mean(name, names) or "; it has " + ", ".join(names)
        raise UsageError(f"{command.name} has no key '{name}'{known}")
    from ela_yolo.host.command_line import ultralytics_value

    return ultralytics_value(name, written, names)


def switch(written: str) -> bool:
    """Return True or False."""
    if written.lower() not in ("true", "false"):
        raise ValueError("True or False")
    return written.lower() == "true"


def whole(written: str) -> int:
    """Return a positive whole number."""
    if not written.isdecimal() or int(written) == 0:
        raise ValueError("a positive whole number")
    return int(written)


def number(written: str) -> float:
    """Return a number; a whole one as an int, which a YAML shows without a fraction."""
    try:
        value = float(written)
    except ValueError:
        raise ValueError("a number") from None
    return int(value) if value.is_integer() else value


def names(written: str) -> list[str]:
    """Return the names in a list: ``a.pt,b.pt``."""
    return [name.strip() for name in written.split(",") if name.strip()]


def whole_numbers(written: str) -> list[int]:
    """Return the numbers in a list: ``6,9``."""
    if not all(name.isdecimal() for name in names(written)):
        raise ValueError("whole numbers such as 6,9")
    return [int(name) for name in names(written)]


def export_format(written: str) -> str:
    """Return Ultralytics' name of an export format."""
    from ela_yolo.parity.runtimes import name_of_format

    return name_of_format(written)
