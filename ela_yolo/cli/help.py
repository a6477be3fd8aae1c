"""The help, printed from the table of commands."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from ela_yolo.cli.keys import Command

WIDTH = 120


def overview(commands: Iterable[Command]) -> str:
    """Return the help of ``ela-yolo``."""
    lines = [(f"ela-yolo {command.name} {command.example}".strip(), command.summary) for command in commands]
    lines += [
        ("ela-yolo train | val | predict | track | benchmark", "Ultralytics' own modes, as in `yolo train`."),
        ("ela-yolo COMMAND --help", "Explain a command and its keys."),
        ("ela-yolo --version", "Print the version."),
    ]
    parts = (
        "ela-yolo is Ultralytics YOLO with ELA attention. Keys are written as in Ultralytics, as key=value.",
        _columns(lines),
        "Exit status: 0 done, 1 failed, 2 wrong usage such as an unknown command or key, 130 interrupted.\n"
        "PYTHONDEVMODE=1 shows the traceback of an error from Ultralytics.",
    )
    return "\n\n".join(parts)


def command_help(command: Command) -> str:
    """Return the help of one command."""
    usage = f"ela-yolo {command.name} {command.example}".strip()
    keys = _columns([(f"{key.name}={key.example}", key.help) for key in command.keys]) if command.keys else ""
    texts = map(_fill, (command.summary, *command.about.split("\n\n")))
    return "\n\n".join(part for part in (usage, *texts, keys, _fill(command.other_keys)) if part)


def _columns(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(_fill(text, f"  {name:{width}}  ", " " * (width + 4)) for name, text in rows)


def _fill(text: str, first: str = "", others: str = "") -> str:
    return "\n".join(wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False))
