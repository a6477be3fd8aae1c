"""The table of commands. A key is added to a command by a line in its row: parsing, errors and help read the rows."""

from __future__ import annotations

from collections.abc import Mapping

from ela_yolo.cli.commands.edits import INSERT, REMOVE
from ela_yolo.cli.commands.evaluations import ABLATE, ATTENTION, COMPARE, PROFILE, QUICKSTART
from ela_yolo.cli.commands.exports import EXPORT, VERIFY
from ela_yolo.cli.doctor import DOCTOR
from ela_yolo.cli.keys import Command

_ROWS = (QUICKSTART, EXPORT, VERIFY, INSERT, REMOVE, ABLATE, ATTENTION, COMPARE, PROFILE, DOCTOR)
COMMANDS: Mapping[str, Command] = {command.name: command for command in _ROWS}
