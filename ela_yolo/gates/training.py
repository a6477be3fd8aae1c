"""Records the gates during a training run: a table and curves in the run's folder, and values for loggers.

Ultralytics calls the functions of ``EVENTS`` during a training run. In each epoch the gates are measured for one batch.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from ultralytics.utils import LOGGER

from ela_yolo.ela import ELA
from ela_yolo.gates.capture import gates_of, hook_blocks
from ela_yolo.host.calls import is_main_process
from ela_yolo.host.model_blocks import all_blocks, ela_blocks
from ela_yolo.host.older_releases import trained_network
from ela_yolo.util.files import atomic_write
from ela_yolo.util.text import command_line

SWITCH = "ELA_YOLO_MONITOR"
TABLE, PICTURE = "ela.csv", "ela.png"
FIGURES = {"mean": "mean of the gates", "spread": "spread of the gates across positions"}
PREFIX = "ela/"
_RECORDER = "ela_recorder"


class _Recorder:
    """Records the gates of one training run.

    Attributes:
        rows: A row for each epoch: ``epoch``, and ``ela/LAYER/mean`` and ``ela/LAYER/spread`` for each block.
    """

    def __init__(self, trainer: Any) -> None:
        self._model = trained_network(trainer)
        self._table = Path(trainer.save_dir) / TABLE
        self._handles: list[Any] = []
        self._measured: dict[str, float] = {}
        self.rows: list[dict[str, float]] = []
        if trainer.args.resume and self._table.is_file():
            with self._table.open(encoding="utf-8") as file:
                rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if row["epoch"] <= trainer.start_epoch]  # the others are trained again
        else:
            for name in (TABLE, PICTURE):  # of an earlier run in this folder
                self._table.with_name(name).unlink(missing_ok=True)

    def start_epoch(self, trainer: Any) -> None:
        """Measure the gates in the next batch."""
        # Ultralytics keeps the metrics of an epoch until the next validation, and would write these into its own table.
        for key in [key for key in trainer.metrics or {} if key.startswith(PREFIX)]:
            del trainer.metrics[key]
        self.stop()  # if memory ran out, Ultralytics starts the epoch again, and no batch has ended
        self._measured = {}
        self._handles = hook_blocks(self._model, self._measure)

    def stop(self, _: Any = None) -> None:
        """Stop measuring."""
        for handle in self._handles:
            handle.remove()

    def finish_epoch(self, trainer: Any) -> None:
        """Add a row to the table, and values to the trainer's metrics.

        Ultralytics' callbacks for TensorBoard, W&B, MLflow and others run after this one and log these metrics.
        """
        measured, self._measured = self._measured, {}
        if not measured:  # the final validation is not an epoch
            return
        trainer.metrics = {**(trainer.metrics or {}), **measured}
        self.rows.append({"epoch": trainer.epoch + 1, **measured})
        with atomic_write(self._table) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.rows[0])
            writer.writerows([f"{value:.6g}" for value in row.values()] for row in self.rows)

    def finish(self, trainer: Any) -> None:
        """Draw the curves."""
        if self.rows and trainer.args.plots:
            with atomic_write(self._table.with_name(PICTURE)) as part:
                _draw(self.rows).savefig(part, format="png", dpi=120)

    def _measure(self, layer: str, block: ELA, x: Tensor) -> None:
        try:
            gates = [gate.float() for gate in gates_of(block, x).sigmoids()]
            spreads = [gate.std(2, correction=0) for gate in gates]
            self._measured[f"{PREFIX}{layer}/mean"] = sum(float(gate.mean()) for gate in gates) / 2
            self._measured[f"{PREFIX}{layer}/spread"] = sum(float(spread.mean()) for spread in spreads) / 2
        except Exception as error:  # must not end the training run
            self.stop()
            self._measured.clear()
            LOGGER.warning(f"ela-yolo: the gates of this epoch are not recorded ({error!r})")


def _start(trainer: Any) -> None:
    """Record if the model has ELA and ``ELA_YOLO_MONITOR`` is not 0."""
    if is_main_process() and os.environ.get(SWITCH) != "0" and ela_blocks(trained_network(trainer)):
        setattr(trainer, _RECORDER, _Recorder(trainer))


def _harmless(event: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a callback whose failure, such as a full disk, does not end the training run."""

    def callback(trainer: Any) -> None:
        try:
            event(trainer)
        except Exception as error:
            recorder = getattr(trainer, _RECORDER, None)
            if recorder is not None:
                recorder.stop()
            setattr(trainer, _RECORDER, None)
            LOGGER.warning(f"ela-yolo: the gates are no longer recorded ({error!r})")

    return callback


def _recorded(method: Callable[[_Recorder, Any], None]) -> Callable[[Any], None]:
    """Return a callback that calls a method of the recorder, if the training run has one."""

    def event(trainer: Any) -> None:
        recorder = getattr(trainer, _RECORDER, None)
        if recorder is not None:
            method(recorder, trainer)

    return _harmless(event)


def _end(trainer: Any) -> None:
    """Draw the curves, and log how to measure what attention contributes, of ELA and of other blocks."""
    _recorded(_Recorder.finish)(trainer)
    if is_main_process() and all_blocks(trained_network(trainer)):
        best = Path(trainer.save_dir) / "weights" / "best.pt"
        command = command_line("ela-yolo", "ablate", f"model={best}", f"data={trainer.args.data}")
        LOGGER.info(f"ela-yolo: to measure what attention contributes: {command}")


EVENTS = {
    "on_train_start": _harmless(_start),
    "on_train_epoch_start": _recorded(_Recorder.start_epoch),
    "on_train_batch_end": _recorded(_Recorder.stop),
    "on_fit_epoch_end": _recorded(_Recorder.finish_epoch),
    "on_train_end": _harmless(_end),
}


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
