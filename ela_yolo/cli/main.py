"""The command ``ela-yolo``: finds the command in the table, and turns errors into one line and an exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ela_yolo._version import __version__
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.commands.modes import ultralytics_mode
from ela_yolo.cli.help import command_help, overview
from ela_yolo.cli.keys import Command, UsageError
from ela_yolo.cli.parsing import parse
from ela_yolo.errors import ELAError
from ela_yolo.util.text import did_you_mean, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        return _fail(error, 2)
    except ELAError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:  # of Ultralytics, which reports bad input by many types, often from deep within
        if sys.flags.dev_mode:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "/".join(Path(frame.filename).parts[-3:])
        reason = f"{type(error).__name__}: {one_line(error)} ({place}:{frame.lineno})"
        return _fail(f"{reason}; PYTHONDEVMODE=1 shows all of it", 1)


def _fail(reason: object, status: int) -> int:
    print(f"ela-yolo: {reason}", file=sys.stderr)
    return status


def _run(args: list[str]) -> int:
    words = [arg for arg in args if "=" not in arg and not arg.startswith("-")]
    if not words:
        if args and not {"-h", "--help", "--version"} & set(args):
            raise UsageError(f"no command in '{' '.join(args)}'; see ela-yolo --help")
        print(f"ela-yolo {__version__}" if "--version" in args else overview(COMMANDS.values()))
        return 0
    if words == ["help"]:
        print(overview(COMMANDS.values()))
        return 0
    command = _find(words)
    if {"-h", "--help"} & set(args):
        print(command_help(command))
        return 0
    if command.needs_ultralytics:
        from ela_yolo.plugin import register

        register()
    place = args.index(command.name)
    given = parse(command, args[:place] + args[place + 1 :])
    return _hand_over(command.name, given, args) if command.run is None else command.run(given)


def _find(words: Sequence[str]) -> Command:
    """Return the command that is named, wherever it stands: ``ela-yolo detect train`` is Ultralytics' grammar too."""
    for word in words:
        if word in COMMANDS:
            return COMMANDS[word]

    from ultralytics.cfg import MODES, TASKS

    for word in words:
        if word in MODES:  # one that came to Ultralytics after the table was written
            return ultralytics_mode(word, "best.pt", "", f"Do what `yolo {word}` does.")
    unknown = next((word for word in words if word not in TASKS), None)
    if unknown is None:
        raise UsageError(f"'{words[0]}' is a task; name a mode too: {', '.join(MODES)}")
    near = did_you_mean(unknown, (*MODES, *COMMANDS))
    raise UsageError(f"'{unknown}' is not a command{near or '; see ela-yolo --help'}")


def _hand_over(mode: str, given: dict[str, Any], args: Sequence[str]) -> int:
    """Look at the files that are named, then let Ultralytics' own command line do the rest."""
    from ultralytics.cfg import entrypoint

    from ela_yolo.host.lookup import check_inputs

    check_inputs(mode, given)
    sys.argv[1:] = args  # where Ultralytics reads them
    entrypoint()
    return 0
