"""Commands that put blocks into models and take them out: ``insert`` and ``remove``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ela_yolo.cli.keys import Command, Key, number, switch, whole_numbers


def insert(given: dict[str, Any]) -> int:
    """Put blocks into a model."""
    from ela_yolo.edit.insert import insert as insert_blocks

    block, gate = given.get("block", "ELA"), given.get("gate", "identity")
    result, written = _edit(insert_blocks, given, block.lower())
    if result.stages:
        print(f"{block} follows {', '.join(f'{layer} {module}' for layer, module in result.stages.items())}")
    if result.transfer:
        print(result.transfer)
        if gate != "identity":
            print(f"gate={gate} changes what the model gives until it is trained; gate=identity does not")
    print(written)
    return 0


def remove(given: dict[str, Any]) -> int:
    """Take the blocks out of a model."""
    from ela_yolo.edit.insert import remove as remove_blocks

    result, written = _edit(remove_blocks, given, "plain")
    if result.transfer:
        kept = f"{result.transfer.kept}/{result.transfer.total} pretrained tensors kept"
        print(f"ELA: {kept}; {len(result.rows)} ELA removed")
    print(written)
    return 0


def _edit(change: Any, given: dict[str, Any], ending: str) -> tuple[Any, str]:
    """Edit a model, print the diff, and return the result and the line that says where it is written."""
    model, dry_run = Path(given.pop("model")), given.pop("dry_run", False)
    save = Path(given.pop("save", f"{model.stem}-{ending}{model.suffix}"))
    result = change(model, save=None if dry_run else save, **given)
    print(result.diff)
    return result, "nothing written (dry_run=True)" if dry_run else f"written to {save}"


_DRY_RUN = Key("dry_run", "True", "True prints the change and writes nothing.", switch)
_EXIST_OK = Key("exist_ok", "True", "True replaces a file that exists.", switch)

INSERT = Command(
    "insert",
    "model=best.pt",
    "Put ELA into a checkpoint or a model YAML; every weight is kept.",
    "The command puts an ELA row after stages of a checkpoint (.pt) or of a model YAML, and renumbers the rows "
    "behind. It prints what changed, and which stages ELA follows. A checkpoint keeps every weight. The result is a "
    "file of its own.",
    (
        Key(
            "model",
            "best.pt",
            "The model: a checkpoint (.pt) or a model YAML.",
            required=True,
            such_as="model=best.pt or model=yolov8n.yaml",
        ),
        Key(
            "after",
            "C2f",
            "What ELA follows: modules (C2f), layer numbers (4,6,9) or pyramid levels (P3,P4,P5: the last stage of "
            "stride 8, 16, 32). The default is every stage: the last row of a resolution before it changes. It is C2f "
            "in YOLOv8, C3k2 in YOLO11, and has other names in others.",
        ),
        Key(
            "where",
            "backbone",
            "backbone, neck or all. The default is backbone, and for layer numbers all.",
        ),
        Key("variant", "B", "T, B, S or L. The default is B."),
        Key(
            "gate",
            "identity",
            "paper, residual or identity. The default is identity, with which a checkpoint detects what it did before. "
            "Other blocks have paper, the block as it is, and identity.",
        ),
        Key(
            "lr_mult",
            "10",
            "The multiple of the learning rate at which the gates are trained, up to 300. The default is 1.",
            number,
        ),
        Key(
            "rewire",
            "all",
            "all: every reader of a stage reads its ELA. next: only the row behind the stage does. The default is all.",
        ),
        Key(
            "block",
            "ELA",
            "Another block than ELA: CA, CBAM, ECA or SE of timm (pip install timm), ChannelScale (ELA's control: a "
            "learned factor for each channel), or one that ela_yolo.register_block knows.",
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
    "Take ELA out of a checkpoint or a model YAML again.",
    "The command takes the ELA rows out of a checkpoint (.pt) or a model YAML, renumbers the rows behind, and "
    "prints what changed. All other weights of a checkpoint stay. The result is a file of its own.",
    (
        Key(
            "model",
            "best-ela.pt",
            "The model: a checkpoint (.pt) or a model YAML.",
            required=True,
            such_as="model=best.pt or model=yolov8n.yaml",
        ),
        Key(
            "layers",
            "6,9",
            "The layer numbers of the blocks to remove, such as those that `ela-yolo ablate` finds not needed. The "
            "default is all blocks.",
            whole_numbers,
        ),
        Key("save", "FILE", "The file to write. The default is best-ela-plain.pt for best-ela.pt, in this folder."),
        _DRY_RUN,
        _EXIST_OK,
    ),
    remove,
)
