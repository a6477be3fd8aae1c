"""Registers ELA when Ultralytics' parser is imported, and imports nothing of ela_yolo or torch until then.

An installation puts a copy of this folder into site-packages as ``_ela_yolo_start``, because a module of ela_yolo would
import ela_yolo. Beside it are ``ela_yolo.start``, which Python 3.15 and later read at every start (PEP 829), and
``ela_yolo.pth``, which older ones read. Both call ``start``.
"""

import os
import sys

TYPE_CHECKING = False  # importing typing would cost more than all the rest here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PARSER = "ultralytics.nn.tasks"


def start() -> None:
    """Wait for the parser, as the start of every Python process does. Never raises: Python would print a traceback."""
    try:
        if _is_on():
            wait()
    except Exception as error:  # of another finder
        _say_off(error)


def at_import() -> None:
    """Register ELA if the parser is loaded, else wait for it, as ``import ela_yolo`` does. Never raises, never prints.

    If the registration fails, what needs it raises the reason.
    """
    try:
        if _is_on() and PARSER in sys.modules:
            _register()
        elif _is_on():
            wait()
    except Exception:  # of a changed Ultralytics or of another finder
        pass


def wait() -> None:
    """Register ELA when the parser is imported. A second call changes nothing, also from another copy of this file."""
    if not any(getattr(finder, "arms_ela_yolo", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, ParserFinder())


class ParserFinder:
    """Leaves every module to the other finders, and registers ELA after the parser's module has run."""

    arms_ela_yolo = True

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of the parser with a loader that registers ELA, and None for other modules."""
        if name != PARSER:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _RegisteringLoader(spec.loader)  # type: ignore[assignment]
        return spec


class _RegisteringLoader:
    """Replaces the loader of one module until the module has run; other modules may share the original loader.

    Everything else, such as the source of the module, comes from the original loader, which is the module's own loader
    again before the module runs.
    """

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(object.__getattribute__(self, "_loader"), name)

    def exec_module(self, module: "ModuleType") -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            _register()
        except Exception as error:
            _say_off(error)


def _is_on() -> bool:
    return os.environ.get("ELA_YOLO_AUTOLOAD") != "0"


def _register() -> None:
    from ela_yolo.plugin import register

    register()


def _say_off(error: Exception) -> None:
    """Print that ELA is not known, and why. Ultralytics must work whatever fails."""
    print(f"ela-yolo is off, and ELA rows will not be known: {error}", file=sys.stderr)
