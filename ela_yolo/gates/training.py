"""Records the gates during a training: a table and a picture in the run's folder, and values for Ultralytics' loggers.

Ultralytics calls these functions at the events of a training. In each epoch the gates are measured for one batch, and
the focus of the averaged weights on a few validation images.
"""

from __future__ import annotations

import csv
import functools
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ela_yolo.gates.focus import FocusMeter, Objects
from ela_yolo.gates.health import NOTHING, REMEDY, GateHealth, HealthMeter
from ela_yolo.gates.placement import Part, covered
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.host.objects import outlines_of
from ela_yolo.util.files import written_whole

SWITCH = "ELA_YOLO_MONITOR"
TABLE, PICTURE = "ela.csv", "ela.png"
FIGURES = {  # attribute of GateHealth -> title in the picture
    "mean": "mean of the gates",
    "spread": "spread across positions",
    "saturated": "share saturated",
    "scale": "scale, out to in",
}
FOCUS = {"focus": "focus: gain inside objects to outside", "random": "the same with random gates"}
IMAGES, DRAWS = 3, 2  # of the focus in each epoch
PREFIX = "ela/"
_STATE, _SAMPLE = "ela_monitor", "ela_sample"


def _harmless(watch: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a callback whose failure, such as a full disk, does not end the training."""

    @functools.wraps(watch)
    def attempt(trainer: Any) -> None:
        try:
            watch(trainer)
        except Exception as error:
            from ultralytics.utils import LOGGER

            meter = getattr(trainer, _STATE, None)
            if meter is not None:
                meter.__exit__()
            setattr(trainer, _STATE, None)
            LOGGER.warning(f"ELA: the gates are no longer watched ({error!r})")

    return attempt


class _Meter(HealthMeter):
    """A meter whose failure does not end the forward in which it measures."""

    def _update(self, *heard: Any) -> None:
        try:
            super()._update(*heard)
        except Exception as error:
            from ultralytics.utils import LOGGER

            self.__exit__()
            LOGGER.warning(f"ELA: the gates of this epoch are not watched ({error!r})")


@_harmless
def start(trainer: Any) -> None:
    """Start to record if the model has ELA and ``ELA_YOLO_MONITOR`` is not 0: the callback of ``on_train_start``."""
    from ultralytics.utils import RANK

    model = _network(trainer)
    if RANK > 0 or os.environ.get(SWITCH) == "0" or not named_blocks(model):
        return
    if not trainer.args.resume:
        for name in (TABLE, PICTURE):
            (Path(trainer.save_dir) / name).unlink(missing_ok=True)
    setattr(trainer, _STATE, _Meter(model))
    setattr(trainer, _SAMPLE, _sample(trainer))


@_harmless
def watch(trainer: Any) -> None:
    """Measure the gates for the next batch: the callback of ``on_train_epoch_start``."""
    if getattr(trainer, _STATE, None) is None:
        return
    # Ultralytics keeps the metrics of an epoch until the next validation, and would write these into its own table.
    for key in [key for key in trainer.metrics or {} if key.startswith(PREFIX)]:
        del trainer.metrics[key]
    # If memory ran out, Ultralytics starts the epoch again, and no batch has ended.
    getattr(trainer, _STATE).__exit__()
    meter = _Meter(_network(trainer))
    setattr(trainer, _STATE, meter)
    meter.__enter__()


@_harmless
def leave(trainer: Any) -> None:
    """Stop measuring: the callback of ``on_train_batch_end``."""
    meter = getattr(trainer, _STATE, None)
    if meter is not None:
        meter.__exit__()


@_harmless
def record(trainer: Any) -> None:
    """Add a row to the table and values to the trainer's metrics: the callback of ``on_fit_epoch_end``.

    Ultralytics' callbacks for TensorBoard, W&B, MLflow and others run after this one and log the trainer's metrics.
    """
    meter = getattr(trainer, _STATE, None)
    if meter is None or not meter.images:
        return
    found = {
        f"{PREFIX}{health.layer}/{figure}": float(getattr(health, figure))
        for health in meter.result()
        for figure in FIGURES
    }
    found.update(_measure_focus(trainer, meter.result()))
    trainer.metrics = {**(trainer.metrics or {}), **found}
    table = Path(trainer.save_dir) / TABLE
    is_new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["epoch", *found])
        writer.writerow([trainer.epoch + 1, *(f"{value:.6g}" for value in found.values())])
    setattr(trainer, _STATE, _Meter(_network(trainer)))  # the final validation is not an epoch


@_harmless
def finish(trainer: Any) -> None:
    """Draw the epochs, and log a verdict for each block: the callback of ``on_train_end``."""
    table = Path(trainer.save_dir) / TABLE
    if getattr(trainer, _STATE, None) is None or not table.exists():
        return
    setattr(trainer, _STATE, None)
    with table.open(encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    from ultralytics.utils import LOGGER

    last = rows[-1]
    told = []
    for layer in dict.fromkeys(_layer(key) for key in last if key.startswith(PREFIX)):
        mean, spread, saturated, scale = (last[f"{PREFIX}{layer}/{figure}"] for figure in FIGURES)
        health = GateHealth(layer, "ELA", mean, spread, saturated, scale)
        told.append(health.verdict)
        LOGGER.info(f"ELA {layer}: {health.verdict} (gates {health.mean:.3f}, spread {health.spread:.4f})")
    if NOTHING in told:
        LOGGER.info(f"ELA: {REMEDY}")
    if trainer.args.plots:
        with written_whole(table.with_name(PICTURE)) as part:
            _draw(rows).savefig(part, format="png", dpi=120)


EVENTS = {
    "on_train_start": start,
    "on_train_epoch_start": watch,
    "on_train_batch_end": leave,
    "on_fit_epoch_end": record,
    "on_train_end": finish,
}


def _network(trainer: Any) -> nn.Module:
    """Return the model that is trained; with ``distill_model=`` this is the student, not the teacher."""
    from ela_yolo.host.versions import unwrap_model

    return _student(unwrap_model(trainer.model))


def _student(model: nn.Module) -> nn.Module:
    from ela_yolo.host.versions import unwrap_model

    return unwrap_model(getattr(model, "student_model", model))


def _sample(trainer: Any) -> list[tuple[Tensor, Objects, tuple[Part, Part]]]:
    """Return a few validation images with objects: the network's input of 8 bits, the objects, and where they lie."""
    data_set = getattr(getattr(trainer, "test_loader", None), "dataset", None)
    labels = getattr(data_set, "labels", [])
    outlines = [outlines_of(label, trainer.args.task) if "bboxes" in label else [] for label in labels]
    labelled = [number for number, found in enumerate(outlines) if found]
    sample = []
    state = random.getstate()  # the transforms of a data set draw from it, also those that change nothing
    for number in labelled[:: max(1, len(labelled) // IMAGES)][:IMAGES]:
        item = data_set[number]  # type: ignore[index]
        image = item["img"]
        parts = covered(item["ori_shape"], (image.shape[1], image.shape[2]))
        sample.append((image, Objects(outlines[number], item["ori_shape"]), parts))
    random.setstate(state)
    return sample


def _measure_focus(trainer: Any, blocks: tuple[GateHealth, ...]) -> dict[str, float]:
    """Return the focus and that of random gates for each block; NaN if the images cannot tell it."""
    sample = getattr(trainer, _SAMPLE, [])
    if not sample:
        return {}
    model = _student(trainer.ema.ema)
    example = next(model.parameters())
    with torch.no_grad(), FocusMeter(model, DRAWS) as meter:
        for image, objects, parts in sample:
            model(image[None].to(example.device, example.dtype) / 255)
            meter.update([objects], [parts], (image.shape[1], image.shape[2]))
    found = meter.result()
    told = {layer: (focus.value, focus.control) for layer, focus in found.items()}
    return {
        f"{PREFIX}{each.layer}/{figure}": value
        for each in blocks
        for figure, value in zip(FOCUS, told.get(each.layer, (math.nan, math.nan)), strict=True)
    }


def _layer(key: str) -> str:
    return key.removeprefix(PREFIX).rpartition("/")[0]


def _draw(rows: list[dict[str, float]]) -> Any:
    """Return a figure with a panel for each statistic and a curve for each block."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    has_focus = any(key.endswith("/focus") for key in rows[0])
    figures = {**FIGURES, **(FOCUS if has_focus else {})}
    figure = Figure(figsize=(10, 2.75 * len(figures) / 2), layout="constrained")
    panels = figure.subplots(len(figures) // 2, 2, sharex=True)
    epochs = [row["epoch"] for row in rows]
    for axes, (name, title) in zip(panels.flat, figures.items(), strict=True):
        for key in (key for key in rows[0] if key.endswith(f"/{name}")):
            axes.plot(epochs, [row[key] for row in rows], marker="o", markersize=3, label=f"layer {_layer(key)}")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if has_focus:
        panels[2, 1].sharey(panels[2, 0])
    panels[0, 0].legend(frameon=False)
    figure.suptitle("the gates of the ELA blocks, in each epoch")
    return figure
