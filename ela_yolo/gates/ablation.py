"""Measures what attention contributes to a model: its score with the gates of its blocks held constant."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ela_yolo.errors import InputError
from ela_yolo.gates.constant_gates import MeanFactors, held_constant
from ela_yolo.host.blocks import describe
from ela_yolo.host.lookup import check_data, open_model
from ela_yolo.host.model_blocks import all_blocks
from ela_yolo.host.patches import require_registered
from ela_yolo.host.progress import progress_bar
from ela_yolo.host.scoring import METRICS, Scores, interval, validate
from ela_yolo.host.subset import subset_of
from ela_yolo.util.json import check_json_name, write_json
from ela_yolo.util.tables import markdown_table
from ela_yolo.util.text import command_line

SCHEMA = 1
SMALLEST = 0.001  # a contribution below the last digit of the table is none
NEEDED, UNNEEDED, HARMFUL = "needed", "not needed on these images", "harmful"


@dataclass(frozen=True)
class Ablation:
    """The score of a model with the gates of one block, or of all blocks, held constant.

    Attributes:
        layer: The layer of the block, such as ``"3"``; ``"all"`` for all blocks together.
        block: The block, such as ``ELA-B identity``.
        score: The main metric with constant gates.
        contribution: The metric as trained minus ``score``: what attention contributes.
        low: The lower end of the contribution's 95% interval over images; None if the task has no interval.
        high: The upper end.
    """

    layer: str
    block: str
    score: float
    contribution: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str | None:
        """``needed``, ``not needed on these images`` or ``harmful``; None without an interval.

        A block is needed if the interval of its contribution lies above 0, and harmful if it lies below 0. A
        contribution of less than 0.001 is neither.
        """
        if self.low is None or self.high is None:
            return None
        if abs(self.contribution) < SMALLEST or self.low <= 0 <= self.high:
            return UNNEEDED
        return NEEDED if self.low > 0 else HARMFUL


@dataclass(frozen=True)
class AblationReport:
    """What attention contributes to a model; printed, it is a Markdown table and a summary.

    Attributes:
        model: The model.
        data: The data set.
        split: The split that was measured on.
        metric: The name of the main metric.
        images: The number of images.
        trained: The metric as trained.
        blocks: The ablation of each block.
        removable: The ablation of all blocks together that can be removed one by one, since they are not needed or
            harmful; its layer is such as ``"6, 9"``. None if there is none.
        together: The ablation of all blocks together.

    Examples:
        >>> block = Ablation("3", "ELA-B identity", 0.591, 0.374, 0.33, 0.41)
        >>> both = Ablation("all", "all blocks", 0.557, 0.408, 0.36, 0.45)
        >>> print(AblationReport("best.pt", "rows.yaml", "val", "mAP50-95", 96, 0.965, (block,), None, both))
        96 images of rows.yaml (val).
        Attention is removed by holding the gates constant at their mean over these images.
        <BLANKLINE>
        | attention removed from | mAP50-95 | contribution of attention | 95% interval over images | verdict |
        |---|---|---|---|---|
        | nothing (as trained) | 0.965 |  |  |  |
        | layer 3, ELA-B identity | 0.591 | +0.374 | +0.330 to +0.410 | needed |
        | all blocks | 0.557 | +0.408 | +0.360 to +0.450 | needed |
        <BLANKLINE>
        Without attention, best.pt scores 0.557 mAP50-95 instead of 0.965. Layer 3 is needed.
    """

    model: str
    data: str
    split: str
    metric: str
    images: int
    trained: float
    blocks: tuple[Ablation, ...]
    removable: Ablation | None
    together: Ablation

    def __str__(self) -> str:
        how = (
            f"{self.images} images of {self.data} ({self.split}).\n"
            "Attention is removed by holding the gates constant at their mean over these images."
        )
        columns = ["contribution of attention", "95% interval over images", "verdict"]
        head = ["attention removed from", self.metric, *columns]
        rows = [["nothing (as trained)", f"{self.trained:.3f}", "", "", ""]]
        named = {*(each.block for each in self.blocks), self.together.block}
        several = [self.removable] if self.removable and self.removable.block not in named else []
        for each in (*self.blocks, *several, self.together):
            interval = "" if each.low is None or each.high is None else f"{_signed(each.low)} to {_signed(each.high)}"
            what = f"layer {each.layer}, {each.block}" if each in self.blocks else each.block
            verdict = each.verdict or "no interval for this task"
            rows.append([what, f"{each.score:.3f}", _signed(each.contribution), interval, verdict])
        return f"{how}\n\n{markdown_table(head, rows)}\n\n{self.summary}"

    @property
    def summary(self) -> str:
        """Sentences that say what all blocks contribute, and which could be removed."""
        told = [
            f"Without attention, {Path(self.model).name} scores {self.together.score:.3f} {self.metric} instead of "
            f"{self.trained:.3f}."
        ]
        in_vain = self.together.verdict == UNNEEDED
        if in_vain:
            told.append(
                "On these images, the model works as well without attention. After a few epochs, or with lr_mult=1, "
                "the gates may hardly have moved: train longer, with lr_mult=100."
            )
        for verdict in (NEEDED, HARMFUL) if in_vain else (NEEDED, HARMFUL, UNNEEDED):
            if self._judged(verdict):
                sentence = f"{_layers(self._judged(verdict))} {verdict}."
                told.append(f"Taken alone, {sentence[0].lower()}{sentence[1:]}" if in_vain else sentence)
        if self.removable and self.removable.verdict == NEEDED:
            told.append("But attention is needed in one of these: without all of them the score falls.")
        elif self.removable:
            layers = [*dict.fromkeys(layer.partition(".")[0] for layer in self.removable.layer.split(", "))]
            command = command_line("ela-yolo", "remove", f"model={self.model}", f"layers={','.join(layers)}")
            told.append(
                f"To remove {_layers(layers, verb=False)}: {command}. A block's scale per channel goes too, so train "
                "for a few epochs and validate again."
            )
        return " ".join(told)

    def _judged(self, verdict: str) -> list[str]:
        return [each.layer for each in self.blocks if each.verdict == verdict]

    def save(self, file: str | Path) -> Path:
        """Write the report as JSON.

        Returns:
            The file.

        Raises:
            InputError: If the name does not end in ``.json``, or there is no such folder.
            OSError: If the file cannot be written.
        """
        target = check_json_name(file)
        content = {
            **asdict(self),
            "blocks": [_with_verdict(each) for each in self.blocks],
            "removable": _with_verdict(self.removable),
            "together": _with_verdict(self.together),
            "summary": self.summary,
        }
        write_json(target, {"schema": SCHEMA, **content})
        return target


def ablate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    imgsz: int | None = None,
    batch: int = 16,
    device: str | int | None = None,
    fraction: float = 1.0,
) -> AblationReport:
    """Measure what the attention of each block, and of all blocks together, contributes to a model's main metric.

    The metric is measured as trained, and with the gates held constant at their mean over the images, per channel. A
    scale per channel remains, and everything that varies by position or by image is removed. Blocks without gates, such
    as CBAM, are replaced by their mean factor per channel.

    Args:
        model: A checkpoint (.pt) with ELA or other blocks, found as Ultralytics finds it.
        data: A data set's YAML, or for classification a folder, found as Ultralytics finds it.
        split: The split of the data set: ``train``, ``val`` or ``test``.
        imgsz: The side of the network's input, in px; None means the size of the model's training.
        batch: The number of images in a batch.
        device: The device, as Ultralytics names it; None means a GPU if there is one.
        fraction: The share of the images to measure on, above 0 and at most 1.

    Returns:
        The metric with each block's attention removed, with 95% intervals over images (a paired bootstrap) for detect,
        segment, pose and OBB.

    Raises:
        InputError: If the model has no block, a block is not a factor of its input, or the data set cannot be read.
        CheckpointError: If there is no such checkpoint.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> print(ablate("best.pt", data="my.yaml"))  # doctest: +SKIP
        64 images of my.yaml (val).
        ...
    """
    require_registered()
    check_data(str(data), split)
    opened = open_model(model)
    blocks = all_blocks(opened)
    if not blocks:
        remedy = f"insert one first: {command_line('ela-yolo', 'insert', f'model={model}')}"
        raise InputError(f"model={model} has no attention block; {remedy}")
    if opened.task not in METRICS:
        raise InputError(f"model={model} has the task {opened.task}, which is not supported")
    keys: dict[str, Any] = {"imgsz": imgsz, "device": device, "batch": batch, "split": split}
    keys = {"plots": False, "verbose": False} | {key: value for key, value in keys.items() if value is not None}
    with (
        subset_of(str(data), split, fraction, opened.task) as source,
        tempfile.TemporaryDirectory() as folder,
        progress_bar("ablate") as bar,
    ):
        opened.add_callback("on_val_batch_end", lambda _: bar.update())
        measure = partial(validate, opened, data=source, project=folder, name="val", exist_ok=True, **keys)
        means = MeanFactors(blocks)

        def start(validator: Any) -> None:
            bar.total = len(validator.dataloader) * (1 + len(blocks) + (len(blocks) > 1))
            means.collect()

        with means:
            trained = measure(on_start=start)
        batches, factors = bar.n, means.result()

        def without(layers: Iterable[str], layer: str, block: str) -> Ablation:
            with held_constant(blocks, {each: factors[each] for each in layers}):
                return _ablation(layer, block, trained, measure())

        lines = [without([layer], layer, describe(block)) for layer, block in blocks.items()]
        if len(blocks) > 1:
            together = without(blocks, "all", "all blocks")
        else:
            together = replace(lines[0], layer="all", block="all blocks")
        chosen = _removable(lines)
        removable = next((each for each in lines if [each.layer] == chosen), None)
        if len(chosen) == len(blocks):
            removable = replace(together, layer=", ".join(chosen))
        elif len(chosen) > 1:
            bar.total += batches
            removable = without(chosen, ", ".join(chosen), _layers(chosen, verb=False))
    return AblationReport(
        str(model),
        str(data),
        split,
        METRICS[opened.task].name,
        trained.images,
        trained.value,
        tuple(lines),
        removable,
        together,
    )


def _removable(lines: Sequence[Ablation]) -> list[str]:
    """Return the blocks that can be removed one by one.

    A row that repeats its block is one layer with the blocks ``3.0`` and ``3.1``, which are removed together.
    """
    kept = {each.layer.partition(".")[0] for each in lines if each.verdict not in (UNNEEDED, HARMFUL)}
    return [each.layer for each in lines if each.layer.partition(".")[0] not in kept]


def _with_verdict(ablation: Ablation | None) -> dict[str, Any] | None:
    return None if ablation is None else {**asdict(ablation), "verdict": ablation.verdict}


def _ablation(layer: str, block: str, trained: Scores, constant: Scores) -> Ablation:
    low = high = None
    if trained.resampled and constant.resampled:
        low, high = interval(np.subtract(trained.resampled, constant.resampled))
    return Ablation(layer, block, constant.value, trained.value - constant.value, low, high)


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # never -0.000


def _layers(layers: Sequence[str], verb: bool = True) -> str:
    """Name layers: ``Layer 3 is``, ``Layers 3, 6 and 9 are``; without the verb in lower case."""
    *first, last = layers
    named = f"{', '.join(first)} and {last}" if first else last
    plural = "s" if first else ""
    return f"Layer{plural} {named} {'are' if first else 'is'}" if verb else f"layer{plural} {named}"
