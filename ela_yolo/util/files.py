"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from uuid import uuid4

from ela_yolo.errors import RenderError


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Give a path beside ``file`` to write to, which takes its name, and its place, once the block has succeeded.

    A file that is replaced keeps its mode, and its owner and group as far as the user may give files to them.
    """
    file = Path(os.path.realpath(file))  # a link stays one
    part = file.with_name(f".{file.name}-unfinished-{uuid4().hex[:8]}")
    try:
        before = file.stat() if file.exists() else None
        if before:
            part.touch(0o600)  # nobody else may read it before it has the mode of the one it replaces
        yield part
        if before:
            if hasattr(os, "chown"):
                with suppress(PermissionError):
                    os.chown(part, before.st_uid, before.st_gid)
            part.chmod(S_IMODE(before.st_mode))
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def data_set_written_whole(folder: Path, is_finished: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a folder beside ``folder`` to write to, which takes its name, and its place, once the block has succeeded.

    Raises:
        RenderError: If the folder is there and holds something else, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RenderError(f"{folder} exists and is not a finished data set; move or delete it, and run this again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-unfinished-{uuid4().hex[:8]}")
        part.mkdir()
    except OSError as error:
        raise RenderError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    try:
        yield part
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(part, folder)
    except OSError as error:
        if not is_finished(folder):  # else another process was faster
            raise RenderError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(file: str | Path) -> str:
    """Return the hash of a file's bytes."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
