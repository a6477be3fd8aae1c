"""The folders of a package: where it is installed, and where its loaded modules come from."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def installed_folder(distribution: str, package: str) -> Path | None:
    """Return the folder of an installed package; None if it is not installed, or only as a link to a clone."""
    try:
        folder = Path(str(metadata.distribution(distribution).locate_file(package)))
    except metadata.PackageNotFoundError:
        return None
    return folder if folder.is_dir() else None


def loaded_folders(package: str) -> list[Path]:
    """Return the folders of a package that its loaded modules come from: one, unless two copies are mixed."""
    folders: dict[Path, None] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == package and file is not None:
            place = Path(file).resolve()
            depth = name.count(".") + (place.stem == "__init__")
            folders[place.parents[depth - 1] if depth else place] = None
    return [*folders]
