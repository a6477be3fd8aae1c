"""Hints about an unknown module in a row: other names of the blocks, and what to write instead.

Only the letters and digits of a name count, not its case or underscores. A name is recognised if it is a block's own
name, or one that papers and other implementations use; it may have common words such as ``block`` around it, or the
name of a layer that contains the block, as ``C2f_ELA`` has.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Block -> its names; an unknown name begins or ends with one of them.
_CALLED = {
    "ELA": ("ELA", "EfficientLocalizationAttention", "EfficientLocalAttention", "EfficientLocalAttn"),
    "CA": ("CA", "CoordinateAttention", "CoordAttention", "CoordAttn", "CoordAtt", "CoordinateAtt", "CoordinateAttn"),
    "CBAM": ("CBAM", "ConvolutionalBlockAttentionModule", "ConvBlockAttention"),
    "ECA": ("ECA", "EfficientChannelAttention", "EfficientChannelAttn"),
    "SE": ("SE", "SqueezeAndExcitation", "SqueezeExcitation", "SqueezeExcite", "SqueezeAndExcite"),
}
_WITHOUT_MEANING = r"(attention|attn|att|block|conv2d|custom|layer|module|mod|my|net|new|plus|the|v?\d+d?|yolo)*"
_VARIANTS = "tbsl"


@dataclass(frozen=True)
class Recognised:
    """The block that an unknown name means.

    Attributes:
        block: The name of the block.
        args: The args of its row: ``[]``, or ``[S]`` for ``ELA_S``.
        part_of: The layer that contains the block, ``C2f`` for ``C2f_ELA``, "" if it is unknown; None if the name means
            the block alone.
    """

    block: str
    args: str = "[]"
    part_of: str | None = None

    @property
    def row(self) -> str:
        """The row to write."""
        return f"[-1, 1, {self.block}, {self.args}]"


def recognise(name: str, known: Collection[str]) -> Recognised | None:
    """Return the block that an unknown name means, or None.

    Args:
        name: The name.
        known: The names of all known blocks.
    """
    plain = _plain(name)
    called = {_plain(word): block for block, words in _CALLED.items() for word in words}
    called = {**{_plain(block): block for block in known}, **called}
    for word in sorted(called, key=len, reverse=True):
        for rest in _around(plain, word):
            if re.fullmatch(_WITHOUT_MEANING, rest):
                return Recognised(called[word])
            if called[word] == "ELA" and rest in _VARIANTS:
                return Recognised("ELA", f"[{rest.upper()}]")
    for word in sorted(called, key=len, reverse=True):
        for rest in _around(plain, word):
            layer = _ultralytics_layer(rest, known)
            if layer is not None:
                return Recognised(called[word], part_of=layer)
        if re.search(rf"(^|[_\-.]){word}([_\-.]|$)", name, re.IGNORECASE):  # in a layer that is unknown too
            return Recognised(called[word], part_of="")
    return None


def row_hint(name: str, known: Collection[str]) -> str:
    """Return a sentence on what to write instead of the unknown module of a row; "" if no block is recognised."""
    meant = recognise(name, known)
    if meant is None:
        return ""
    if meant.part_of is None:
        return f"{name} is {meant.block} here: write {meant.row}, the channels come by themselves"
    stage = meant.part_of or "a stage"
    here = f"write {meant.part_of or 'the stage'} here and {meant.row} after it"
    keys = f"{'' if meant.block == 'ELA' else f' block={meant.block}'}{meant.part_of and f' after={meant.part_of}'}"
    return (
        f"{name} is not known: {meant.block} is a row after {stage} and not part of it; {here}, "
        f"or let ela-yolo insert model=...{keys} do it, which numbers the rows anew"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _around(name: str, word: str) -> list[str]:
    """Return the rests of a name without the word at its beginning, and without it at its end."""
    rests = [name[len(word) :]] if name.startswith(word) else []
    return [*rests, name[: -len(word)]] if name.endswith(word) else rests


def _ultralytics_layer(plain: str, known: Collection[str]) -> str | None:
    from torch import nn
    from ultralytics.nn import tasks

    layers = (name for name, value in vars(tasks).items() if isinstance(value, type) and issubclass(value, nn.Module))
    return next((name for name in layers if _plain(name) == plain and name not in known), None)
