"""Inserts ELA into model YAMLs and checkpoints of Ultralytics, and removes it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOGGER

from ela_yolo.edit.checkpoint import build_anew, model_rows, move_layers, read_checkpoint, yaml_text
from ela_yolo.edit.new_row import new_row_args
from ela_yolo.edit.renumbering import Plan, edit_mapping, plan_insertion, plan_removal, why_not_after
from ela_yolo.edit.rows import Row
from ela_yolo.edit.stages import choose_stages
from ela_yolo.edit.yaml_file import as_bytes, printable, read_model_yaml, read_rows
from ela_yolo.edit.yaml_text import edit_text
from ela_yolo.errors import InsertionError
from ela_yolo.host.blocks import check_block, is_block_name, pasted_row_hint
from ela_yolo.host.lookup import YAML, find_model, open_model
from ela_yolo.host.patches import require_registered
from ela_yolo.host.weight_matching import WeightTransfer, report_transfer
from ela_yolo.util.files import atomic_write
from ela_yolo.util.quiet import quiet
from ela_yolo.util.text import one_line


@dataclass(frozen=True)
class Insertion:
    """What ``insert`` or ``remove`` did to a model; printed, it is the diff.

    Attributes:
        text: The new YAML.
        rows: The layer numbers of the blocks' rows: in the new YAML if they were inserted, in the old one if removed.
        layer_map: Old layer number -> new layer number, for every layer that is in both models.
        diff: The lines of the YAML that changed, as a unified diff.
        stages: The stages that the blocks follow, in the old YAML: layer number -> module. Empty after a removal.
        skipped: The stages that no block follows although all stages were meant: layer number -> the reason.
        transfer: How many of a checkpoint's weights were kept; None for a YAML.

    Examples:
        >>> insertion = insert("yolov8n.yaml", after="P3")
        >>> insertion.stages
        {4: 'C2f'}
        >>> insertion.rows
        (5,)
        >>> insertion.layer_map[22], insertion.transfer  # the head is one layer further; a YAML has no weights
        (23, None)
    """

    text: str
    rows: tuple[int, ...]
    layer_map: Mapping[int, int]
    diff: str
    stages: Mapping[int, str]
    transfer: WeightTransfer | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.diff


def insert(
    model: str | Path,
    *,
    after: str | int | Iterable[str | int] | None = None,
    where: str | None = None,
    variant: str | None = None,
    gate: str | None = None,
    lr_mult: float | None = None,
    rewire: str = "all",
    block: str = "ELA",
    save: str | Path | None = None,
    exist_ok: bool = False,
) -> Insertion:
    """Insert ELA, or another block, after stages of a model, and keep all weights of a checkpoint.

    The layers after a new block get new numbers, and the rows that read them are changed to match. With the gate form
    ``identity`` the new model gives the same outputs as the old one, until it is trained.

    Args:
        model: A model YAML or a checkpoint (.pt), found as Ultralytics finds it: ``yolov8n.yaml``, ``path/to/best.pt``.
        after: The stages that the blocks follow: module names (``C2f``), layer numbers (``4``) or pyramid levels
            (``P3``: the last stage of stride 8), in a list or with commas between them. None means all stages: the last
            row before each change of resolution, such as C2f in YOLOv8 and C3k2 in YOLO11. Stages that no row reads,
            or that a block follows already, are skipped.
        where: ``backbone``, ``neck`` or ``all``. None means ``backbone``, for layer numbers ``all``.
        variant: The variant of ELA, ``T``, ``B``, ``S`` or ``L``; None means ``B``.
        gate: The gate form of ELA, ``paper``, ``residual`` or ``identity``; None means ``identity``. Other blocks have
            the forms ``identity`` and ``paper``, the block as it is.
        lr_mult: Multiple of the learning rate at which the gates are trained. None means 100 with the gate form
            ``identity``, and otherwise 1.
        rewire: ``all``: every reader of a stage reads the block. ``next``: only the row after the block reads it.
        block: The block to insert: ``ELA``, ``ChannelScale``, ``CA``, ``CBAM``, ``ECA`` or ``SE`` of timm, or a name
            given to ``register_block``.
        save: The file to write; None writes nothing.
        exist_ok: Whether an existing file may be replaced.

    Returns:
        The new YAML, its diff, and which weights were kept.

    Raises:
        InputError: If there is no such YAML or block.
        InsertionError: If the block cannot be inserted there, or the file cannot be written.
        ModelYamlError: If the YAML is not a model YAML.
        CheckpointError: If the checkpoint cannot be read, or holds no model of Ultralytics.
        RowError: If the block cannot be imported.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> print(insert("yolov8n.yaml", after=4, gate="paper"))  # doctest: +ELLIPSIS
        --- yolov8.yaml
        +++ yolov8.yaml with ELA
        ...
        +  - [-1, 1, ELA, []]
        ...
        >>> insert("yolov8n.yaml", after="C2f", where="neck").rows
        (13, 17, 21, 25)
    """
    require_registered()
    file = find_model(model)
    check_block(block)
    new = [-1, 1, block, new_row_args(variant, gate, lr_mult, block)]

    def plan(rows: Sequence[Row], build: Callable[[], Any]) -> Plan:
        for row in rows:
            if hint := pasted_row_hint(row.module, row.args):
                LOGGER.warning(
                    f"ela-yolo: {file.name}: layer {row.layer}: {hint}; to train here, remove this row, or start from "
                    "the original YAML"
                )
        stages = choose_stages(rows, file.name, after, where, lambda: _measure_strides(file.name, build))
        if after is None:
            reasons = {stage: why_not_after(rows, stage, rewire) for stage in stages}
            skipped.update((stage, f"{rows[stage].module} {why}") for stage, why in reasons.items() if why)
            stages = tuple(stage for stage in stages if stage not in skipped)
            if not stages:
                reason = "; ".join(f"layer {stage} {why}" for stage, why in skipped.items())
                raise InsertionError(f"{file.name}: no stage is left ({reason}); choose others with after= or where=")
        return plan_insertion(rows, file.name, stages, rewire)

    skipped: dict[int, str] = {}
    return replace(_edit(file, plan, new, save, exist_ok), skipped=skipped)


def remove(
    model: str | Path,
    *,
    layers: Iterable[int] | None = None,
    save: str | Path | None = None,
    exist_ok: bool = False,
) -> Insertion:
    """Remove ELA and all other known blocks from a model, or some of them, and keep all other weights of a checkpoint.

    The readers of a block then read the stage before it, as in the model without blocks.

    Args:
        model: A model YAML or a checkpoint (.pt), found as Ultralytics finds it.
        layers: The layer numbers of the blocks to remove, such as ``[6, 9]``; None means all blocks.
        save: The file to write; None writes nothing.
        exist_ok: Whether an existing file may be replaced.

    Returns:
        The new YAML, its diff, and which weights were kept.

    Raises:
        InputError: If there is no such YAML.
        InsertionError: If there is no row of a block, one of the layers is not a block, or the file cannot be written.
        ModelYamlError: If the YAML is not a model YAML.
        CheckpointError: If the checkpoint cannot be read, or holds no model of Ultralytics.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> remove("yolov8n-ela.yaml").rows
        (3, 6, 9, 12)
    """
    require_registered()
    file = find_model(model)
    chosen = None if layers is None else [*layers]
    return _edit(file, lambda rows, _: plan_removal(rows, file.name, chosen), None, save, exist_ok)


def layer_map(model: str | Path) -> dict[int, int]:
    """Find the layers of the plain model in a model with blocks.

    ``freeze=`` of Ultralytics counts the blocks too. ``[layer_map(model)[i] for i in range(10)]`` are the first ten
    layers of the plain model.

    Args:
        model: A model YAML or a checkpoint (.pt), found as Ultralytics finds it.

    Returns:
        Layer of the plain model -> its number in this model.

    Raises:
        InputError: If there is no such YAML.
        ModelYamlError: If the YAML is not a model YAML.
        CheckpointError: If the checkpoint cannot be read, or holds no model of Ultralytics.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> layer_map("yolov8n-ela.yaml")[9]  # four blocks stand before SPPF, layer 9 of YOLOv8
        13
    """
    require_registered()
    file = find_model(model)
    if file.suffix in YAML:
        rows = read_rows(read_model_yaml(file), file.name)
    else:
        rows = model_rows(file, read_checkpoint(file)[1].yaml)
    return dict(enumerate(row.layer for row in rows if not is_block_name(row.module)))


def _edit(
    file: Path,
    make_plan: Callable[[Sequence[Row], Callable[[], Any]], Plan],
    new: Sequence[Any] | None,
    save: str | Path | None,
    exist_ok: bool,
) -> Insertion:
    """Change the rows of a YAML or a checkpoint by a plan: insert the row ``new`` after stages, or remove blocks."""
    target = None if save is None else _check_name(file, Path(save))
    if file.suffix in YAML:
        text = read_model_yaml(file)
        rows = read_rows(text, file.name)
        plan = make_plan(rows, lambda: open_model(file).model)
        edited = edit_text(text, rows, plan, new)
        if target is not None:
            with _writing(target, exist_ok) as part:
                part.write_bytes(as_bytes(edited))
        return _insertion(file, printable(text), printable(edited), plan, new)

    checkpoint, model = read_checkpoint(file)
    layers, rows = list(model.model), model_rows(file, model.yaml)
    text = yaml_text(file, model.yaml)
    plan = make_plan(rows, lambda: build_anew(file, model, model.yaml))
    config = edit_mapping(model.yaml, rows, plan, new)
    move_layers(file, model, config, plan.layer_map)
    if target is not None:
        with _writing(target, exist_ok) as part:
            torch.save(checkpoint, part)
    origin = {new_number: old for old, new_number in plan.layer_map.items()}
    matches = [origin.get(number) for number in range(len(model.model))]
    transfer = report_transfer(layers, [*model.model], matches)
    return _insertion(file, text, yaml_text(file, config), plan, new, transfer)


def _insertion(
    file: Path, old: str, text: str, plan: Plan, new: Sequence[Any] | None, transfer: WeightTransfer | None = None
) -> Insertion:
    change = "without blocks" if new is None else f"with {new[2]}"
    lines = difflib.unified_diff(
        old.splitlines(), text.splitlines(), file.name, f"{file.name} {change}", n=1, lineterm=""
    )
    return Insertion(text, plan.blocks, plan.layer_map, "\n".join(lines), plan.stages, transfer)


def _check_name(file: Path, target: Path) -> Path:
    kinds = YAML if file.suffix in YAML else (".pt",)
    if target.suffix not in kinds:
        raise InsertionError(f"save={target}: the result is a {kinds[0]} file; choose a name ending in {kinds[0]}")
    if not target.parent.is_dir():
        raise InsertionError(f"save={target}: there is no folder {target.parent}; create it first")
    return target


@contextmanager
def _writing(target: Path, exist_ok: bool) -> Iterator[Path]:
    if target.is_dir() or (target.exists() and not exist_ok):
        raise InsertionError(f"{target} exists; name another file with save=, or replace it with exist_ok=True")
    try:
        with atomic_write(target) as part:
            yield part
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InsertionError(f"{target} cannot be written: {reason}; choose another place with save=") from error


def _measure_strides(name: str, build: Callable[[], Any]) -> dict[int, int]:
    """Return layer -> stride in px, measured on an empty image, for the layers that give a feature map."""
    size = 256  # P7 has 2 x 2 cells
    strides = {}

    def note(layer: Any, _: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            strides[layer.i] = size // output.shape[-1]

    try:
        # The strides are the same at every scale, so Ultralytics' warning of a missing scale is dropped.
        with quiet(), torch.random.fork_rng(devices=[]), torch.inference_mode():
            model = build()
            for layer in model.model:
                layer.register_forward_hook(note)
            model.eval()(torch.zeros(1, next(model.parameters()).shape[1], size, size))
    except Exception as error:  # of Ultralytics, which may want to download something, or of a user's module
        raise InsertionError(
            f"{name} does not run here, so its strides are unknown ({one_line(error)}); give layer numbers"
        ) from error
    return strides
