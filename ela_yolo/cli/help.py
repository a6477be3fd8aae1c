"""The help, printed from the table of commands."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from ela_yolo.cli.keys import Command

WIDTH = 120


def overview(commands: Iterable[Command]) -> str:
    """Return what ``ela-yolo --help`` prints."""
    lines = [(f"ela-yolo {command.name} {command.example}".strip(), command.summary) for command in commands]
    lines.append(("ela-yolo train | val | predict | track | benchmark", "Ultralytics' own modes, as in `yolo train`."))
    lines.append(("ela-yolo COMMAND --help", "Explain a command and its keys."))
    lines.append(("ela-yolo --version", "Print the version."))
    return "\n".join(
        (
            "ela-yolo is Ultralytics YOLO with ELA attention. Keys are written as in Ultralytics, as key=value.",
            "",
            *_columns(lines),
            "",
            "Exit status: 0 done, 1 it failed, 2 wrong usage such as an unknown command or key, 130 interrupted.",
            "PYTHONDEVMODE=1 shows the traceback of an error that comes from Ultralytics.",
        )
    )


def command_help(command: Command) -> str:
    """Return what ``ela-yolo COMMAND --help`` prints."""
    keys = [(key.name, key.help) for key in command.keys]
    parts = [_usage(command), _paragraph(command.summary), *map(_paragraph, command.about.split("\n\n"))]
    parts += ["\n".join(_columns(keys))] if keys else []
    return "\n\n".join([*parts, _paragraph(command.other_keys)] if command.other_keys else parts)


def _usage(command: Command) -> str:
    start = f"ela-yolo {command.name} "
    keys = [(f"{key.name}={key.example}", key.required) for key in command.keys]
    words = [text if required else f"[{text}]" for text, required in keys]
    words += ["[key=value]..."] if command.other_keys else []
    return _fill(" ".join(words), start, " " * len(start))


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    """Return a line for each row, its second column below itself where it takes more of them."""
    width = max(len(name) for name, _ in rows)
    return [_fill(text, f"  {name:{width}}  ", " " * (width + 4)) for name, text in rows]


def _paragraph(text: str) -> str:
    return _fill(text, "", "")


def _fill(text: str, first: str, others: str) -> str:
    return "\n".join(wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False))
