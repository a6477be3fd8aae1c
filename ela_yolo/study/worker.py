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
VALIDATION_KEYS = ("device", "workers", "plots", "conf", "iou", "max_det", "agnostic_nms", "classes", "half")
RESULT = "run.json"  # in the run's folder; a run is finished when it has this file
TRAINED = "trained.json"  # beside it, once the model is trained: it is not trained again if the validation fails
SCHEMA = 4  # of a comparison's JSON files; raised when a key changes its name or meaning


def train_and_validate(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train and validate one model, and return the result for JSON.

    Args:
        job: ``model``, ``data``, ``split``, ``seed``, ``folder`` (of the run) and ``train`` (the train keys of
            Ultralytics).
    """
    from ela_yolo.host.calls import count_parameters, gflops
    from ela_yolo.host.lookup import open_model
    from ela_yolo.host.scoring import METRICS

    folder = Path(job["folder"])
    if not (folder / TRAINED).is_file():
        _train(job, folder)
    start = time.time()
    trained = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    seconds = trained.pop("seconds")

    keys = {key: job["train"][key] for key in VALIDATION_KEYS if key in job["train"]}
    place = {"project": str(folder), "name": "validation", "exist_ok": True}
    last = open_model(folder / "weights" / "last.pt")
    with (folder / "results.csv").open(encoding="utf-8") as file:
        key = METRICS[last.task].key
        curve = [float(row[key]) for row in csv.DictReader(file, skipinitialspace=True)]
    size = {"parameters": count_parameters(last.model), "gflops": gflops(last.model)}
    keys.update(place, data=job["data"], split=job["split"], **trained)
    scores, without_attention = _validate_twice(last, **keys)
    return {
        "score": scores.value,
        "without_attention": without_attention,
        "metrics": scores.metrics,
        "classes": scores.classes,
        "sizes": scores.sizes,
        "objects": scores.objects,
        "resampled": [round(score, 5) for score in scores.resampled],
        "epochs": curve,
        **size,
        "seconds": seconds + time.time() - start,
        **trained,
    }


def _train(job: Mapping[str, Any], folder: Path) -> None:
    """Train the model, and write down its image size and batch, which Ultralytics may have chosen."""
    from ela_yolo.host.lookup import open_model

    start = time.time()
    model = open_model(job["model"])
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    model.train(data=job["data"], seed=job["seed"], **place, **job["train"])
    trainer = model.trainer
    size = {"imgsz": int(trainer.args.imgsz), "batch": int(trainer.batch_size)}
    write_json(folder / TRAINED, {**size, "seconds": time.time() - start})


def _validate_twice(model: Any, **keys: Any) -> tuple[Any, float]:
    """Return the scores, and the main metric with the gates of all blocks held constant.

    The latter is NaN if the model has no blocks, or has one that is not a factor of its input.
    """
    from ela_yolo.errors import NoFactorError
    from ela_yolo.gates.constant_gates import MeanFactors, held_constant
    from ela_yolo.host.model_blocks import all_blocks
    from ela_yolo.host.scoring import validate

    blocks = all_blocks(model)
    try:
        with MeanFactors(blocks) as means:
            scores = validate(model, by_size=True, on_start=lambda _: means.collect(), **keys)
        if not blocks:
            return scores, math.nan
        with held_constant(blocks, means.result()):
            return scores, validate(model, **{**keys, "plots": False, "name": "without-attention"}).value
    except NoFactorError:
        return validate(model, by_size=True, **keys), math.nan


def main() -> None:
    """Do the job in the first line of standard input, and end early if standard input is closed."""
    job = json.loads(sys.stdin.readline())
    _import_ultralytics(job["packages"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = train_and_validate(job)
    write_json(Path(job["folder"]) / RESULT, {"schema": SCHEMA, **result})


def _import_ultralytics(packages: str) -> None:
    """Import the Ultralytics that the command uses: ``-m`` finds one in the working folder first, as in a clone."""
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
