"""The command ``ela-yolo``: it runs a command of the table, or passes the command line to Ultralytics."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ela_yolo._version import __version__
from ela_yolo.cli.commands import COMMANDS
from ela_yolo.cli.help import command_help, overview
from ela_yolo.cli.keys import parse
from ela_yolo.errors import ELAError, UsageError
from ela_yolo.util.console import drop_output, say
from ela_yolo.util.text import did_you_mean, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except ELAError as error:
        return _fail(error, 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # in Ultralytics' output
        drop_output(sys.stdout)
        return 1
    except Exception as error:  # Ultralytics reports wrong input by many types
        if sys.flags.dev_mode:
            raise
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            return _fail(f"{error.filename}: {error.strerror}; name another file or folder, or change that", 1)
        return _fail(f"{type(error).__name__}: {one_line(error)}; PYTHONDEVMODE=1 shows the traceback", 1)


def _fail(reason: object, status: int) -> int:
    say(f"ela-yolo: {reason}", sys.stderr)
    return status


def _run(args: list[str]) -> int:
    words = [arg for arg in args if "=" not in arg and not arg.startswith("-")]
    command = next((COMMANDS[word] for word in words if word in COMMANDS), None)
    if command is not None:
        if {"-h", "--help"} & set(args):
            say(command_help(command))
            return 0
        if command.needs_ultralytics:
            from ela_yolo.plugin import register

            register()
        args.remove(command.name)
        return command.run(parse(command, args))
    if words and words != ["help"]:
        return _pass_on(words, args)
    if "--version" in args:
        say(f"ela-yolo {__version__}")
    elif args and not {"-h", "--help", "help"} & set(args):
        raise UsageError(f"no command in '{' '.join(args)}'; see ela-yolo --help")
    else:
        say(overview(COMMANDS.values()))
    return 0


def _pass_on(words: Sequence[str], args: Sequence[str]) -> int:
    """Pass a command of Ultralytics to Ultralytics, unchanged."""
    from ela_yolo.host.command_line import modes_and_tasks, run_ultralytics
    from ela_yolo.plugin import register

    known = modes_and_tasks()
    if set(words).isdisjoint(known):
        near = did_you_mean(words[0], (*known, *COMMANDS))
        raise UsageError(f"'{words[0]}' is not a command{near or '; see ela-yolo --help'}")
    register()
    run_ultralytics(args)
    return 0
