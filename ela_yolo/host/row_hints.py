"""What people call the blocks elsewhere, and what to write here instead: hints beside an unknown name in a row.

A name is recognised by its letters and digits alone, whatever its case and underscores: a block's own name or one that
papers and public copies use, with words around it that say nothing, or with a layer that it is a part of there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ela_yolo.host.blocks import known_blocks

# Block -> what it is called, and how such a name begins or ends.
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
    """A name that is unknown here, and which block is meant.

    Attributes:
        block: The block's name here.
        args: What its row says as args: ``[]``, or ``[S]`` for ``ELA_S``.
        part_of: What the name has the block as a part of, ``C2f`` in ``C2f_ELA``; None if it is the block alone.
    """

    block: str
    args: str = "[]"
    part_of: str | None = None

    @property
    def row(self) -> str:
        """The row to write."""
        return f"[-1, 1, {self.block}, {self.args}]"


def recognise(name: str) -> Recognised | None:
    """Return the block that somebody means by a name that is not known here, or None."""
    plain = _plain(name)
    called = {_plain(word): block for block, words in _CALLED.items() for word in words}
    called = {**{_plain(block): block for block in known_blocks()}, **called}
    for word in sorted(called, key=len, reverse=True):
        for rest in _around(plain, word):
            if re.fullmatch(_WITHOUT_MEANING, rest):
                return Recognised(called[word])
            if called[word] == "ELA" and rest in _VARIANTS:
                return Recognised("ELA", f"[{rest.upper()}]")
    for word in sorted(called, key=len, reverse=True):
        for rest in _around(plain, word):
            layer = _ultralytics_layer(rest)
            if layer is not None:
                return Recognised(called[word], part_of=layer)
        if re.search(rf"(^|[_\-.]){word}([_\-.]|$)", name, re.IGNORECASE):  # of something that is not known either
            return Recognised(called[word], part_of="")
    return None


def row_hint(name: str) -> str:
    """Return what to write instead of a row's unknown module, as a sentence; "" if nothing is known of it."""
    meant = recognise(name)
    if meant is None:
        return ""
    if meant.part_of is None:
        return f"{name} is {meant.block} here: write {meant.row}, the channels come by themselves"
    stage = meant.part_of or "a stage"
    here = f"write {meant.part_of or 'the stage'} here and {meant.row} behind it"
    keys = f"{'' if meant.block == 'ELA' else f' block={meant.block}'}{meant.part_of and f' after={meant.part_of}'}"
    return (
        f"{name} is not known: {meant.block} is a row after {stage} and not part of it; {here}, "
        f"or let ela-yolo insert model=...{keys} do it, which numbers the rows anew"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _around(name: str, word: str) -> list[str]:
    """Return what is left of a name without the word at its beginning or end."""
    rests = [name[len(word) :]] if name.startswith(word) else []
    return [*rests, name[: -len(word)]] if name.endswith(word) else rests


def _ultralytics_layer(plain: str) -> str | None:
    from torch import nn
    from ultralytics.nn import tasks

    layers = (name for name, value in vars(tasks).items() if isinstance(value, type) and issubclass(value, nn.Module))
    return next((name for name in layers if _plain(name) == plain and name not in known_blocks()), None)
