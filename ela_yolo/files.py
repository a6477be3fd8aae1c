"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ela_yolo.errors import RenderError


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Give a path beside ``file`` to write to, which takes its name, and its place, once the block has succeeded."""
    file = Path(os.path.realpath(file))  # a link stays one
    part = file.with_name(f".{file.name}-unfinished-{uuid4().hex[:8]}")
    try:
        yield part
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
