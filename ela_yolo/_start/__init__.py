"""Waits for Ultralytics' parser, and imports nothing of ela_yolo until that is imported.

An installation puts a copy of this folder into site-packages as ``_ela_yolo_start``, since a module of ela_yolo brings
ela_yolo with it. Beside it lie ``ela_yolo.start``, which Python 3.15 and later read at every start (PEP 829), and
``ela_yolo.pth``, which older ones do. Both call ``start``.
"""

import os
import sys

TYPE_CHECKING = False  # typing itself would cost more than all the rest here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PARSER = "ultralytics.nn.tasks"


def start() -> None:
    """Wait for the parser, unless that is switched off. Never fails, for Python would print a traceback."""
    if os.environ.get("ELA_YOLO_AUTOLOAD") == "0":
        return
    try:
        wait()
    except Exception as error:  # of another finder
        say_off(error)


def wait() -> None:
    """Register ELA when the parser is imported. Another call changes nothing, of another copy of this file either."""
    if not any(is_ours(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, ParserFinder())


def is_ours(finder: object) -> bool:
    """Return whether that is such a finder."""
    return getattr(finder, "arms_ela_yolo", False)


class ParserFinder:
    """Leaves every module to the other finders; the parser's has ELA registered after it."""

    arms_ela_yolo = True

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of the parser, and None for other modules or if ela_yolo is damaged."""
        if name != PARSER:
            return None
        try:
            from ela_yolo.autoload import find_parser

            return find_parser(name, path, target)
        except Exception as error:
            say_off(error)
        return None


def say_off(error: Exception) -> None:
    """Print that there is no ELA, and why. Ultralytics must work whatever fails."""
    print(f"ela-yolo is off, and ELA rows will not be known: {error}", file=sys.stderr)
