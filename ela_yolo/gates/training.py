"""Records the gates during a training run: a table and curves in the run's folder, and values for loggers.

Ultralytics calls these functions at the events of a training run. In each epoch the gates are measured for one batch.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ela_yolo.ela import ELA
from ela_yolo.gates.capture import gates_of, listen
from ela_yolo.host.model_blocks import named_blocks
from ela_yolo.util.files import atomic_write

SWITCH = "ELA_YOLO_MONITOR"
TABLE, PICTURE = "ela.csv", "ela.png"
FIGURES = {"mean": "mean of the gates", "spread": "spread of the gates across positions"}
PREFIX = "ela/"
_RECORDER = "ela_recorder"


class _Recorder:
    """The gates of one training run, epoch by epoch.

    Attributes:
        rows: A row for each epoch: ``epoch``, and ``ela/LAYER/mean`` and ``ela/LAYER/spread`` for each block.
    """

    def __init__(self, model: nn.Module, rows: list[dict[str, float]]) -> None:
        self.rows = rows
        self._model = model
        self._handles: list[Any] = []
        self._measured: dict[str, float] = {}

    def listen(self) -> None:
        """Measure the gates in each forward from now on."""
        self.stop()  # if memory ran out, Ultralytics starts the epoch again, and no batch has ended
        self._measured = {}
        self._handles = listen(self._model, self._measure)

    def stop(self) -> None:
        """Stop measuring."""
        for handle in self._handles:
            handle.remove()

    def take(self) -> dict[str, float]:
        """Return what was measured since :meth:`listen`; empty if nothing was, or if it was taken already."""
        measured, self._measured = self._measured, {}
        return measured

    def _measure(self, layer: str, block: ELA, x: Tensor, _: Tensor) -> None:
        try:
            sigmoids = [gate.float() for gate in gates_of(block, x).sigmoids()]
            self._measured[f"{PREFIX}{layer}/mean"] = sum(float(gate.mean()) for gate in sigmoids) / 2
            self._measured[f"{PREFIX}{layer}/spread"] = (
                sum(float(gate.std(2, correction=0).mean()) for gate in sigmoids) / 2
            )
        except Exception as error:  # must not end the training run
            self.stop()
            _warn(f"ELA: the gates of this epoch are not recorded ({error!r})")


def _harmless(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a callback whose failure, such as a full disk, does not end the training run."""

    @functools.wraps(callback)
    def attempt(trainer: Any) -> None:
        try:
            callback(trainer)
        except Exception as error:
            recorder = getattr(trainer, _RECORDER, None)
            if recorder is not None:
                recorder.stop()
            setattr(trainer, _RECORDER, None)
            _warn(f"ELA: the gates are no longer recorded ({error!r})")

    return attempt


def _warn(message: str) -> None:
    from ultralytics.utils import LOGGER

    LOGGER.warning(message)


@_harmless
def on_train_start(trainer: Any) -> None:
    """Start to record if the model has ELA and ``ELA_YOLO_MONITOR`` is not 0."""
    from ultralytics.utils import RANK

    model = _network(trainer)
    if RANK > 0 or os.environ.get(SWITCH) == "0" or not named_blocks(model):
        return
    table = Path(trainer.save_dir) / TABLE
    rows: list[dict[str, float]] = []
    if trainer.args.resume and table.is_file():
        with table.open(encoding="utf-8") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        rows = [row for row in rows if row["epoch"] <= trainer.start_epoch]  # the others are trained again
    else:
        for name in (TABLE, PICTURE):  # of an earlier run in this folder
            table.with_name(name).unlink(missing_ok=True)
    setattr(trainer, _RECORDER, _Recorder(model, rows))


@_harmless
def on_train_epoch_start(trainer: Any) -> None:
    """Measure the gates in the next batch."""
    # Ultralytics keeps the metrics of an epoch until the next validation, and would write these into its own table.
    for key in [key for key in trainer.metrics or {} if key.startswith(PREFIX)]:
        del trainer.metrics[key]
    recorder = getattr(trainer, _RECORDER, None)
    if recorder is not None:
        recorder.listen()


@_harmless
def on_train_batch_end(trainer: Any) -> None:
    """Stop measuring."""
    recorder = getattr(trainer, _RECORDER, None)
    if recorder is not None:
        recorder.stop()


@_harmless
def on_fit_epoch_end(trainer: Any) -> None:
    """Add a row to the table, and values to the trainer's metrics.

    Ultralytics' callbacks for TensorBoard, W&B, MLflow and others run after this one and log the trainer's metrics.
    """
    recorder = getattr(trainer, _RECORDER, None)
    if recorder is None:
        return
    measured = recorder.take()
    if not measured:  # the final validation is not an epoch
        return
    trainer.metrics = {**(trainer.metrics or {}), **measured}
    recorder.rows.append({"epoch": trainer.epoch + 1, **measured})
    with atomic_write(Path(trainer.save_dir) / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(recorder.rows[0])
        writer.writerows([f"{value:.6g}" for value in row.values()] for row in recorder.rows)


@_harmless
def on_train_end(trainer: Any) -> None:
    """Draw the curves, and say how to find out what attention contributes."""
    recorder = getattr(trainer, _RECORDER, None)
    if recorder is None or not recorder.rows:
        return
    setattr(trainer, _RECORDER, None)
    from ultralytics.utils import LOGGER

    if trainer.args.plots:
        with atomic_write(Path(trainer.save_dir) / PICTURE) as part:
            _draw(recorder.rows).savefig(part, format="png", dpi=120)
    best = Path(trainer.save_dir) / "weights" / "best.pt"
    LOGGER.info(f"ELA: to measure what attention contributes: ela-yolo ablate model={best} data={trainer.args.data}")


EVENTS = {
    each.__name__: each
    for each in (on_train_start, on_train_epoch_start, on_train_batch_end, on_fit_epoch_end, on_train_end)
}


def _network(trainer: Any) -> nn.Module:
    """Return the model that is trained; with ``distill_model=`` this is the student, not the teacher."""
    from ela_yolo.host.versions import unwrap_model

    model = unwrap_model(trainer.model)
    return unwrap_model(getattr(model, "student_model", model))


def _draw(rows: list[dict[str, float]]) -> Any:
    """Return a figure with a panel for each statistic and a curve for each block."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    panels = figure.subplots(1, len(FIGURES))
    for axes, (name, title) in zip(panels, FIGURES.items(), strict=True):
        for key in (key for key in rows[0] if key.endswith(f"/{name}")):
            layer = key.removeprefix(PREFIX).removesuffix(f"/{name}")
            axes.plot(epochs, [row[key] for row in rows], marker="o", markersize=3, label=f"layer {layer}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.suptitle("gates of the ELA blocks, epoch by epoch")
    return figure
