"""Keeps log messages off for a while, and leaves the caller's own setting as it was. It imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(level: int = logging.CRITICAL) -> Iterator[None]:
    """Drop log messages of ``level`` and below, of every logger, within a ``with`` block.

    Args:
        level: A level of :mod:`logging`. Where the caller has already disabled more, that holds.

    Example:
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
