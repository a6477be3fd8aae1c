"""Commands whose keys are Ultralytics': its modes, its tuner, and the quickstart."""

from __future__ import annotations

from typing import Any

from ela_yolo.cli.keys import Command, Key, UsageError, literal

ALL_TRAIN_KEYS = "All other keys are Ultralytics' train keys, such as epochs=50 or imgsz=640."


def quickstart(given: dict[str, Any]) -> int:
    """Train with and without ELA on the embedded data, and show what attention does."""
    from ela_yolo.cli.quickstart import quickstart as run_quickstart
    from ela_yolo.host.lookup import check_inputs

    if "model" in given:
        raise UsageError("the quickstart has its own model; to train another: ela-yolo train model=...")
    check_inputs("quickstart", given)
    result = run_quickstart(given)
    print(f"\n{result.parity}\n\n{result.ablation}\n\n{result}")
    return 0 if result.parity.passed else 1


def tune(given: dict[str, Any]) -> int:
    """Search for train keys; Ultralytics' command line does not know its own method."""
    from ela_yolo.host.lookup import check_inputs, open_model

    check_inputs("tune", given)
    open_model(given.pop("model"), given.pop("task", None)).tune(**given)
    return 0


def ultralytics_mode(name: str, model: str, more: str, summary: str) -> Command:
    """Return the command for one of Ultralytics' own modes; ``model`` and ``more`` keys make its example."""
    return Command(
        name,
        f"model={model} {more}".strip(),
        summary,
        f"This is Ultralytics' own mode with ELA registered; `yolo {name}` does the same. {_and_a_task(name)}",
        (
            Key(
                "model",
                model,
                "The model: a model YAML, a checkpoint (.pt) or, where the mode takes one, an exported file. The file "
                "of cfg= may name it instead.",
                required=True,
                unless="cfg",
                such_as="model=yolov8n-ela.yaml",
            ),
        ),
        run=None,
        other_keys="All other keys are Ultralytics' too; `yolo cfg` lists them and their defaults.",
    )


def _and_a_task(command: str) -> str:
    return f"A task may be named too, as in `ela-yolo segment {command}`."


QUICKSTART = Command(
    "quickstart",
    "",
    "Train with and without ELA, and show what attention does.",
    "The command trains yolov8n.pt with and without ELA on rows.yaml, which this machine renders at first use. It "
    "measures what attention contributes, exports the model to ONNX, compares the file with the model, and draws which "
    "places of some validation images support each detection. It ends with a table. Ultralytics downloads yolov8n.pt; "
    "without it, the command trains yolov8n-ela.yaml from scratch on scenes.yaml.",
    (),
    quickstart,
    other_keys="All keys are Ultralytics' train keys, such as epochs=60 or device=0. They replace those of the recipe.",
)

MODES = (
    ultralytics_mode("train", "yolov8n-ela.yaml", "data=my.yaml", "Train a model, as `yolo train` does."),
    ultralytics_mode("val", "best.pt", "data=my.yaml", "Validate a model, as `yolo val` does."),
    ultralytics_mode("predict", "best.pt", "source=images/", "Detect objects in images, as `yolo predict` does."),
    ultralytics_mode("track", "best.pt", "source=video.mp4", "Follow objects in a video, as `yolo track` does."),
    ultralytics_mode("benchmark", "best.pt", "", "Measure the export formats, as `yolo benchmark` does."),
)

TUNE = Command(
    "tune",
    "model=yolov8n-ela.yaml data=my.yaml",
    "Search for good train keys, as Ultralytics' `model.tune()` does.",
    f"This is Ultralytics' own tuner with ELA registered; `yolo` has no command for it. {_and_a_task('tune')}",
    (
        Key("model", "yolov8n-ela.yaml", "The model: a model YAML or a checkpoint (.pt).", required=True),
        Key("iterations", "10", "The number of trials. The default is that of Ultralytics.", literal),
        Key("use_ray", "True", "True searches with Ray Tune (pip install 'ela-yolo[ray]').", literal),
    ),
    tune,
    other_keys=ALL_TRAIN_KEYS,
)
