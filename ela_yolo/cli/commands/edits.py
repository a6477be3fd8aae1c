"""Commands that put blocks into models and take them out: ``insert`` and ``remove``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ela_yolo.cli.keys import Command, Key, number, switch, whole_numbers
from ela_yolo.util.console import say
from ela_yolo.util.packaged import packaged_yamls


def insert(given: dict[str, Any]) -> int:
    """Put blocks into a model."""
    from ela_yolo.edit.insert import insert as insert_blocks

    block, gate = given.get("block", "ELA"), given.get("gate", "identity")
    result, written = _edit(insert_blocks, given, block.lower())
    if result.stages:
        say(f"{block} follows {', '.join(f'{layer} {module}' for layer, module in result.stages.items())}")
    for layer, reason in result.skipped.items():
        say(f"skipped: layer {layer} {reason}")
    if result.transfer:
        say(result.transfer)
        if gate != "identity":
            say(f"gate={gate} changes the model's outputs until it is trained; gate=identity does not")
    say(written)
    return 0


def remove(given: dict[str, Any]) -> int:
    """Take the blocks out of a model."""
    from ela_yolo.edit.insert import remove as remove_blocks

    result, written = _edit(remove_blocks, given, "plain")
    if result.transfer:
        kept = f"{result.transfer.kept}/{result.transfer.total} pretrained tensors kept"
        say(f"ELA: {kept}; {len(result.rows)} {result.transfer.block} removed")
    say(written)
    return 0


def _edit(change: Any, given: dict[str, Any], ending: str) -> tuple[Any, str]:
    """Edit a model, print the diff, and return the result and a line with the name of the new file."""
    model, dry_run = Path(given.pop("model")), given.pop("dry_run", False)
    save = Path(given.pop("save", _default_name(model, ending)))
    result = change(model, save=None if dry_run else save, **given)
    say(result.diff)
    return result, "nothing written (dry_run=True)" if dry_run else f"written to {save}"


def _default_name(model: Path, ending: str) -> str:
    suffix = model.suffix or ".pt"  # a bare yolov8n is yolov8n.pt
    name = f"{model.stem}-{ending}{suffix}"
    # Before 8.4.144, Ultralytics would load the YAML of this package that has this name without the scale.
    taken = {name, re.sub(r"(\d)[nslmx]-", r"\1-", name)} & packaged_yamls().keys()
    return f"{model.stem}-{ending}-mine{suffix}" if taken else name


_DRY_RUN = Key("dry_run", "True", "True prints the change and writes nothing.", switch)
_EXIST_OK = Key("exist_ok", "True", "True replaces an existing file.", switch)

INSERT = Command(
    "insert",
    "model=best.pt",
    "Insert ELA into a checkpoint or a model YAML, and keep all weights.",
    "The command inserts an ELA row after stages of the model and renumbers the later rows. It prints the changed rows "
    "and the stages that ELA follows, and writes a new file. The new checkpoint keeps every weight.",
    (
        Key("model", "best.pt", "A checkpoint (.pt) or a model YAML.", required=True),
        Key(
            "after",
            "C2f",
            "The stages that ELA follows: modules (C2f), layer numbers (4,6,9) or pyramid levels (P3,P4,P5: the last "
            "stage of stride 8, 16, 32). The default is every stage: the last row of each resolution, C2f in YOLOv8. "
            "Stages that no row reads or that a block follows already are skipped.",
        ),
        Key("where", "backbone", "backbone, neck or all. The default is backbone, and all for layer numbers."),
        Key("variant", "B", "T, B, S or L. The default is B."),
        Key(
            "gate",
            "identity",
            "paper, residual or identity. With identity, the default, detections are identical until training. Other "
            "blocks have paper (the unchanged block) and identity.",
        ),
        Key(
            "lr_mult",
            "100",
            "The multiple of the learning rate for the gates, up to 300. The default is 100 with gate=identity, and "
            "otherwise 1.",
            number,
        ),
        Key(
            "rewire",
            "all",
            "all (the default): every row that read a stage reads its ELA. next: only the next row does.",
        ),
        Key(
            "block",
            "ELA",
            "The block. Besides ELA: CA, CBAM, ECA or SE of timm (pip install timm), ChannelScale (a control for ELA: "
            "a learned factor per channel), or a block that you registered with ela_yolo.register_block.",
        ),
        Key("save", "FILE", "The file to write. The default is best-ela.pt for best.pt, in this folder."),
        _DRY_RUN,
        _EXIST_OK,
    ),
    insert,
)

REMOVE = Command(
    "remove",
    "model=best-ela.pt",
    "Remove ELA from a checkpoint or a model YAML.",
    "The command removes the ELA rows of the model, renumbers the later rows, prints the changed rows, and writes a "
    "new file. The new checkpoint keeps all other weights.",
    (
        Key("model", "best-ela.pt", "A checkpoint (.pt) or a model YAML.", required=True),
        Key("layers", "6,9", "The layer numbers of the blocks to remove. The default is all blocks.", whole_numbers),
        Key("save", "FILE", "The file to write. The default is best-ela-plain.pt for best-ela.pt, in this folder."),
        _DRY_RUN,
        _EXIST_OK,
    ),
    remove,
)
