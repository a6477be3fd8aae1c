"""Writes docs/commands.md from the help of the commands: ``python tools/commands.py``."""

from pathlib import Path

from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.help import command_help, overview

PAGE = Path(__file__).parents[1] / "docs/commands.md"


def page() -> str:
    """Return the text of docs/commands.md."""
    parts = ["# Commands", f"```\n$ ela-yolo --help\n{overview(COMMANDS.values())}\n```"]
    for name, command in COMMANDS.items():
        parts += [f"## {name}", f"```\n$ ela-yolo {name} --help\n{command_help(command)}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
