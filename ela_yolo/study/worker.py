"""One run of a comparison in an interpreter of its own.

``python -m ela_yolo.study.worker`` reads a job, a line of JSON, from standard input. It trains with Ultralytics,
validates the weights of the last epoch, and writes the result as JSON. It does not take ``best.pt``, which is the best
of all epochs on the validation images themselves: that favours a model whose mAP fluctuates more.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ela_yolo.util.json import write_json

# Train keys that validation takes too. It reads single_cls from the checkpoint.
VALIDATION_KEYS = ("device", "workers", "plots", "conf", "iou", "max_det", "agnostic_nms", "classes", "split", "half")
CURVE = "metrics/mAP50-95(B)"
RESULT = "run.json"  # in the run's folder; a run is finished when it has this file
SCHEMA = 3  # of a comparison's JSON files; raised when a key changes its name or meaning


def train_and_validate(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train and validate one model, and return the result for JSON.

    Args:
        job: ``model``, ``data``, ``seed``, ``folder`` (of the run) and ``train`` (the train keys of Ultralytics).
    """
    from ela_yolo.host.lookup import open_model

    start = time.time()
    folder = Path(job["folder"])
    trained = open_model(job["model"])
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    trained.train(data=job["data"], seed=job["seed"], **place, **job["train"])
    trainer = trained.trainer
    with (folder / "results.csv").open(encoding="utf-8") as file:
        curve = [float(row[CURVE]) for row in csv.DictReader(file, skipinitialspace=True)]

    keys = {key: job["train"][key] for key in VALIDATION_KEYS if key in job["train"]}
    place = {"project": str(folder), "name": "validation", "exist_ok": True}
    last = open_model(folder / "weights" / "last.pt")
    keys.update(place, data=job["data"], imgsz=trainer.args.imgsz, batch=trainer.batch_size)
    metrics, scores, without_attention = _validate_twice(last, **keys)
    box = metrics.box
    return {
        "map50": float(box.map50),
        "map50_95": float(box.map),
        "without_attention": without_attention,
        "precision": float(box.mp),
        "recall": float(box.mr),
        "classes": {metrics.names[int(i)]: float(ap) for i, ap in zip(box.ap_class_index, box.ap, strict=True)},
        "sizes": scores.sizes,
        "objects": scores.objects,
        "resampled": [round(score, 5) for score in scores.resampled],
        "epochs": curve,
        "seconds": time.time() - start,
        "imgsz": int(trainer.args.imgsz),
        "batch": int(trainer.batch_size),
    }


def _validate_twice(model: Any, **keys: Any) -> tuple[Any, Any, float]:
    """Return the metrics, the scores, and the main metric with the gates of all blocks held constant.

    The latter is NaN if the model has no blocks, or has one that is not a factor of its input.
    """
    from ela_yolo.gates.ablation import MeanFactors, NoFactorError, held_constant
    from ela_yolo.host.model_blocks import attention_blocks
    from ela_yolo.host.scoring import validate

    blocks = attention_blocks(model)
    try:
        with MeanFactors(blocks) as means:
            metrics, scores = validate(model, by_size=True, on_start=lambda _: means.collect(), **keys)
        if not blocks:
            return metrics, scores, math.nan
        with held_constant(blocks, means.result()):
            return metrics, scores, validate(model, **{**keys, "plots": False, "name": "without-attention"})[1].value
    except NoFactorError:
        return *validate(model, by_size=True, **keys), math.nan


def main() -> None:
    """Do the job in the first line of standard input, and end early if standard input is closed."""
    job = json.loads(sys.stdin.readline())
    _import_ultralytics(job["ultralytics"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = train_and_validate(job)
    write_json(Path(job["folder"]) / RESULT, {"schema": SCHEMA, **result})


def _import_ultralytics(folder: str) -> None:
    """Import the Ultralytics that the command uses: ``-m`` finds one in the working folder first, as in a clone."""
    packages = str(Path(folder).parent)
    sys.path.insert(0, packages)
    import ultralytics  # noqa: F401

    sys.path.remove(packages)


def _end_with_parent() -> None:
    """End this process when standard input is closed, so that it does not train on beside a new run."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
