"""Registers ELA when Ultralytics' parser is imported, by the finder of ``_start``, which imports this module then."""

import sys

from ela_yolo._start import PARSER, is_ours, say_off, wait

TYPE_CHECKING = False  # typing itself would cost more than all the rest here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def arm() -> None:
    """Register ELA now if Ultralytics' parser is loaded, else when it is imported. Another call changes nothing.

    Raises:
        RegistrationError: If the parser is loaded and not as expected. A later import of the parser never fails: the
            reason is printed to standard error, and models without ELA work as before.
    """
    if PARSER in sys.modules:
        from ela_yolo.plugin import register

        register()
    else:
        wait()


def find_parser(name: str, path: "Sequence[str] | None", target: "ModuleType | None") -> "ModuleSpec | None":
    """Return the spec that the other finders find, with a loader that registers ELA after it has run the module."""
    others = (finder for finder in sys.meta_path if not is_ours(finder) and hasattr(finder, "find_spec"))
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
        _register_or_say_why()


def _register_or_say_why() -> None:
    try:
        from ela_yolo.plugin import register

        register()
    except Exception as error:
        say_off(error)
