"""A hook of MkDocs: takes the addresses of the site and the repository from pyproject.toml, once they are there."""

from pathlib import Path
from typing import Any

import tomllib


def on_config(config: Any) -> None:
    """Set ``site_url`` and ``repo_url``."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    urls = tomllib.loads(text)["project"]["urls"]
    config.site_url, config.repo_url = urls.get("Documentation", ""), urls.get("Repository")
