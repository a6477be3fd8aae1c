"""Writes the args of a new block's row, and checks the choices that an insertion gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ela_yolo.ela import Gate, Variant, check_lr_mult
from ela_yolo.errors import InsertionError
from ela_yolo.host.blocks import find_block
from ela_yolo.host.row_args import options_of, start_options

LR_MULT = 100  # of blocks that start as identities: docs/study.md compares 1, 10 and 100
CHOICES: Mapping[str, tuple[str, ...]] = {
    "where": ("backbone", "neck", "all"),
    "variant": get_args(Variant),
    "gate": get_args(Gate),
    "rewire": ("all", "next"),
}


def new_row_args(
    variant: str | None = None, gate: str | None = None, lr_mult: float | None = None, block: str = "ELA"
) -> list[Any]:
    """Return the args of a block's row: ``[{"gate": "identity", "lr_mult": 100}]``, ``[]`` for the paper's form.

    Args:
        variant: The variant of ELA; None means ``B``.
        gate: The gate form. None means ``identity``, for a block that starts as an identity on its own too. Blocks
            other than ELA have the forms ``identity`` and ``paper``, the block as it is.
        lr_mult: Multiple of the learning rate. None means 100 with ``identity``, and otherwise 1.
        block: The module that the row names.
    """
    kind = find_block(block)
    starts = start_options(kind)
    options = (*options_of(kind), *starts)
    if variant and block != "ELA":
        raise InsertionError(f"variant= applies to ELA only, not to {block}; leave it out")
    gate = check_choice("gate", gate or "identity")
    if block != "ELA" and (gate == "residual" or (gate == "paper" and "identity" not in options)):
        raise InsertionError(f"gate={gate} applies to ELA only, not to {block}; leave it out")
    if lr_mult is not None:
        if "lr_mult" not in options or (gate == "paper" and block != "ELA"):
            raise InsertionError(f"{block} takes no lr_mult{' with gate=paper' * (gate == 'paper')}; leave it out")
        try:
            check_lr_mult(lr_mult)
        except ValueError as error:
            raise InsertionError(str(error)) from None
    elif gate == "identity" and "lr_mult" in options:
        lr_mult = LR_MULT
    given: dict[str, object] = {}
    if block == "ELA":
        given = {"variant": check_choice("variant", variant or "B"), "gate": gate}
    elif "identity" in starts:
        given = {"identity": gate == "identity" or None}
    given["lr_mult"] = lr_mult
    written = {key: value for key, value in given.items() if value not in (None, "B", "paper")}
    return [written] if written else []


def check_choice(key: str, value: str) -> str:
    """Return the value of a key if it is one of the key's choices."""
    if value not in CHOICES[key]:
        raise InsertionError(f"{key} must be one of {', '.join(CHOICES[key])}, got {value!r}")
    return value
