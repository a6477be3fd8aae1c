"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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
