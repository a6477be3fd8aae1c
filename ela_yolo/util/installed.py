"""Where an installed package is, and which distribution it comes from."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def distributions_of(package: str) -> list[str]:
    """Return the names of the distributions that have files in a package, sorted; [] if it is not installed."""
    return sorted({*metadata.packages_distributions().get(package, ())})


def installed_folder(distribution: str, package: str) -> Path | None:
    """Return the folder of an installed package; None if it is not installed, or only as a link to a clone."""
    try:
        folder = Path(str(metadata.distribution(distribution).locate_file(package)))
    except metadata.PackageNotFoundError:
        return None
    return folder if folder.is_dir() else None
