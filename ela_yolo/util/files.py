"""Writes files whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from uuid import uuid4


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a temporary path beside ``file`` to write to; it replaces ``file`` if the ``with`` block succeeds.

    The new file has the mode of the one that it replaces.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "result.txt"
        ...     with atomic_write(file) as part:
        ...         _ = part.write_text("done")
        ...     file.read_text()
        'done'
    """
    file = Path(os.path.realpath(file))  # a symbolic link stays one
    part = file.with_name(f".{file.name}-unfinished-{uuid4().hex[:8]}")
    try:
        before = file.stat() if file.exists() else None
        if before:
            part.touch(0o600)  # no one else may read it before it has the mode of the former file
        yield part
        if before:
            part.chmod(S_IMODE(before.st_mode))
        os.replace(part, file)
    except OSError as error:
        if error.filename in (None, str(part)):  # None: a failed write, such as to a full disk
            error.filename = str(file)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
