"""Drops log messages for a while, and restores the caller's setting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(level: int = logging.CRITICAL) -> Iterator[None]:
    """Drop the log messages of all loggers up to a level, within a ``with`` block.

    Args:
        level: A level of ``logging``. If the caller has disabled a higher one, that one stays in force.

    Examples:
        >>> with quiet():
        ...     logging.getLogger("ultralytics").critical("not to be seen")
        >>> logging.root.manager.disable
        0
    """
    former = logging.root.manager.disable
    logging.disable(max(former, level))
    try:
        yield
    finally:
        logging.disable(former)
