"""Writes files and folders whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from uuid import uuid4

from ela_yolo.errors import DatasetError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a temporary path beside ``file`` to write to; it replaces ``file`` if the ``with`` block succeeds.

    The new file has the mode of the one that it replaces, and its owner and group if the user may set them.

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
            if hasattr(os, "chown"):
                with suppress(PermissionError):
                    os.chown(part, before.st_uid, before.st_gid)
            part.chmod(S_IMODE(before.st_mode))
        os.replace(part, file)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(file)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_data_set(folder: Path, is_finished: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to write to; it becomes ``folder`` if the ``with`` block succeeds.

    Raises:
        DatasetError: If the folder holds something else, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and is not a finished data set; move or delete it, and run this again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-unfinished-{uuid4().hex[:8]}")
        part.mkdir()
    except OSError as error:
        raise DatasetError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    try:
        yield part
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(part, folder)
    except OSError as error:
        if not is_finished(folder):  # or another process was faster
            raise DatasetError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
