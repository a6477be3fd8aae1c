"""Arms the registration: a finder waits until somebody imports Ultralytics' parser, and registers when it is loaded.

``autoload.pth``, which an installation puts where Python runs it at every start, holds such a finder in one line. It
imports this module only when that parser is asked for, so that other programs pay next to nothing for it.
"""

import sys

TYPE_CHECKING = False  # typing itself would cost more than all the rest here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PARSER = "ultralytics.nn.tasks"


def arm() -> None:
    """Register now if Ultralytics' parser is loaded, else as soon as it is. Calling it again changes nothing.

    Raises:
        RegistrationError: If the parser is loaded and not as expected. A parser that is loaded later never fails for
            it: the reason goes to standard error, and models without ELA work as ever.
    """
    if PARSER in sys.modules:
        from ela_yolo.plugin import register

        register()
    elif not any(_is_ours(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ParserFinder())


class _ParserFinder:
    """Does what the finder in ``autoload.pth`` does, where that is not installed or switched off."""

    arms_ela_yolo = True

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        return find_parser(name, path, target) if name == PARSER else None


def _is_ours(finder: object) -> bool:
    return getattr(finder, "arms_ela_yolo", False)


def find_parser(name: str, path: "Sequence[str] | None", target: "ModuleType | None") -> "ModuleSpec | None":
    """Return what the other finders find, with a loader that registers after it has run the module."""
    others = (finder for finder in sys.meta_path if not _is_ours(finder) and hasattr(finder, "find_spec"))
    spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
    if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
        spec.loader = _RegisteringLoader(spec.loader)  # type: ignore[assignment]
    return spec


class _RegisteringLoader:
    """Stands for the loader of one module, which others may share, until that has run.

    All but running the module, such as its source, is asked of that loader, and the module has it as its own before it
    runs.
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
    except Exception as error:  # whatever it is, Ultralytics must go on without us
        print(f"ela-yolo is off, and ELA rows will not be known: {error}", file=sys.stderr)
