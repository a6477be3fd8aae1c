"""Finds the YAMLs of this package."""

from __future__ import annotations

from pathlib import Path


def packaged_yamls() -> dict[str, Path]:
    """Return the model and data-set YAMLs of this package: name -> file."""
    package = Path(__file__).parents[1]
    root = package if (package / "cfg").is_dir() else package.parent  # in a clone these folders lie beside the package
    return {file.name: file for folder in ("cfg", "datasets") for file in sorted((root / folder).glob("*.yaml"))}
