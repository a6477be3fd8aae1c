"""Shows one progress bar in the place of Ultralytics' own bars and messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ultralytics.utils import LOGGER, TQDM


@contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Any]:
    """Show a progress bar within a ``with`` block; Ultralytics logs nothing below a warning meanwhile."""
    with TQDM(total=total, desc=description) as bar:
        level = LOGGER.level
        LOGGER.setLevel(max(level, logging.WARNING))
        try:
            yield bar
        finally:
            LOGGER.setLevel(level)
