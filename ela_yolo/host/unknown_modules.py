"""Hints about a module that Ultralytics does not know, if its name holds the name of a block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

_OTHER_NAMES = {  # of papers and other packages
    **dict.fromkeys(("EfficientLocalizationAttention", "EfficientLocalAttention"), "ELA"),
    **dict.fromkeys(("CoordAtt", "CoordAttention", "CoordinateAttention"), "CA"),
}


def block_in(name: str, known: Iterable[str]) -> str | None:
    """Return the block whose name a name has between its underscores, as in ``C2f_ELA``; None if there is none.

    ``Block``, ``Layer``, ``Module`` and ``Attention`` after a block's name do not count. In a name of five letters or
    more, one letter may be wrong, and two from eight letters on.
    """
    blocks = {block.lower(): block for block in known} | {other.lower(): block for other, block in _OTHER_NAMES.items()}
    parts = re.split(r"[_\-.]", name.lower())
    parts += [re.sub("(block|layer|module|attention)$", "", part) for part in parts]
    found = next((blocks[part] for part in parts if part in blocks), None)
    return found or next((block for other, block in blocks.items() if _is_misspelt(name.lower(), other)), None)


def _is_misspelt(name: str, word: str) -> bool:
    same = sum(block.size for block in SequenceMatcher(None, name, word).get_matching_blocks())
    shorter, longer = sorted((len(name), len(word)))
    return shorter >= 5 and longer - same <= (1 if shorter < 8 else 2)


def row_hint(name: str, known: Iterable[str]) -> str:
    """Return a sentence on what to write instead of an unknown module; "" if no block's name is in its name."""
    block = block_in(name, known)
    if block is None:
        return ""
    return (
        f"{name} is unknown: {block} is a separate row, [-1, 1, {block}, []], after that of a stage such as C2f; "
        f"ela-yolo insert model=... block={block} writes such rows and renumbers the others"
    )
