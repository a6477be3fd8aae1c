"""Commands that show what ELA does and costs: ``attention``, ``compare`` and ``profile``."""

from __future__ import annotations

from typing import Any

from ela_yolo.cli.commands.modes import ALL_TRAIN_KEYS
from ela_yolo.cli.keys import Command, Key, UsageError, literals, names, pixels, switch, text_or_none

REPORT = "attention.json"


def attention(given: dict[str, Any]) -> int:
    """Draw where ELA looks, and print what the gates do."""
    from ela_yolo.gates.attention import attention as draw_attention
    from ela_yolo.gates.attention import attention_folder, gate_health
    from ela_yolo.gates.page import PAGE
    from ela_yolo.host.lookup import check_data

    data, report = given.pop("data", None), None
    drawing = {"stretch", "class", "beside"} & given.keys()
    if "source" not in given and drawing:
        raise UsageError(f"{min(drawing)}= is about pictures, which need a source=")
    folder = attention_folder(given["model"], given.get("save"))
    if data is not None:
        check_data(data)
        report = gate_health(given["model"], data, imgsz=given.get("imgsz"))
        folder.mkdir(parents=True, exist_ok=True)
        report.save(folder / REPORT)
        print(f"\n{report}\n\nwritten to {folder / REPORT}")
    if "source" in given:
        classes = given.pop("class", None)
        files = draw_attention(**given, classes=classes, report=report)
        print(f"{len(files)} {'picture' if len(files) == 1 else 'pictures'} written to {folder}")
        print(f"all in one page: {folder / PAGE}")
    return 0


ATTENTION = Command(
    "attention",
    "model=best.pt source=images/",
    "Draw where ELA looks; with data=, measure whether it favours objects.",
    "For each image the command draws the detections and, for each ELA block, what the block does to what the network "
    "has found: red is amplified and blue damped, relative to the mean over the image. Lines show the gates along the "
    "height and the width, and small maps the three channels that differ most from place to place. The page "
    "index.html shows all images in a browser.\n\n"
    "With data= the command measures over the validation images what the gates do (their mean, their spread across "
    "positions, the share that is saturated, the scale of the map) and the focus: the gain inside the labelled boxes "
    "or masks, divided by the gain outside. Beside it stands the same of random gates, and a verdict from both.",
    (
        Key("model", "best.pt", "A checkpoint (.pt) or a model YAML with ELA.", required=True),
        Key(
            "source",
            "images/",
            "An image, a folder, a pattern such as 'images/*.jpg', a video: whatever `yolo predict` takes.",
            required=True,
            unless="data",
            such_as="source=images/ for pictures; or data=my.yaml for a table",
        ),
        Key("data", "my.yaml", "A data-set YAML, for the table. Then source= may be left out."),
        Key("imgsz", "640", "The side of the image. The default is what the model was trained with.", pixels),
        Key(
            "save",
            "FOLDER",
            "The folder for what is written. The default is best-attention for best.pt, in this folder.",
        ),
        Key(
            "stretch",
            "True",
            "True stretches the colours to each picture's own values. By default all pictures can be compared.",
            switch,
        ),
        Key(
            "class",
            "star",
            "Classes by name or number, separated by commas: Ultralytics' own heat map of these is drawn too. It needs "
            "Ultralytics 8.4.113.",
        ),
        Key("beside", "plain.pt", "Another model, whose heat map is drawn beside this one's: the one without ELA."),
    ),
    attention,
)


def compare(given: dict[str, Any]) -> int:
    """Train models alike and compare them."""
    from ela_yolo.study.compare import compare as compare_models

    out = given.setdefault("out", "compare")
    result = compare_models(**given)
    files = result.save(out)
    print(f"\n{result}\n\nwritten to {out}: {', '.join(file.name for file in files)}")
    return 0


COMPARE = Command(
    "compare",
    "models=A,B data=my.yaml seeds=0,1,2",
    "Train models alike, and say what the difference shows.",
    "The command trains every model with every seed, with the same data, budget and keys, and measures the weights "
    "of the last epoch. It compares the models with the first one, seed by seed: scores, AP of small, medium and "
    "large objects, epochs until the first one's final score, and cost. The differences have bootstrap intervals "
    "over seeds and over images and an exact test, and a sentence says what they show.\n\n"
    "A run that is finished is kept. The same command goes on after an interruption, and more seeds or models may "
    "join.",
    (
        Key(
            "models",
            "yolov8n.yaml,yolov8n-ela.yaml",
            "Model YAMLs or checkpoints, the one to compare with first. `ela-yolo insert model=yolov8n.pt block=CA` "
            "makes more of them: CA, CBAM, ECA and SE of timm.",
            names,
            required=True,
        ),
        Key("data", "my.yaml", "A data-set YAML.", required=True),
        Key(
            "seeds",
            "0,1,2",
            "The seeds of every model. Fewer than three say nothing, fewer than six can show nothing, and each "
            "further model needs more of them.",
            literals,
            required=True,
        ),
        Key(
            "controls",
            "scale,next",
            "Models to compare with too. scale: the first model with ELA, with ChannelScale in the place of each "
            "block: a learned factor for each channel, which is ELA without attention. next: the first model at the "
            "next larger scale, such as yolov8s for yolov8n; for a checkpoint, the one of Ultralytics.",
            names,
        ),
        Key(
            "out",
            "compare",
            "The folder of the runs, the controls, compare.md, .csv, .json and .png. The default is compare.",
        ),
        Key(
            "engine",
            "ray",
            "ray runs as many trainings at once as there are cores or GPUs (pip install 'ela-yolo[ray]').",
            text_or_none,
        ),
    ),
    compare,
    other_keys=ALL_TRAIN_KEYS,
)


def profile(given: dict[str, Any]) -> int:
    """Measure a model beside its plain model."""
    from ela_yolo.cost.measure import profile as measure
    from ela_yolo.cost.result import target_files
    from ela_yolo.host.lookup import check_model

    save = given.pop("save", None)
    check_model(given["model"])
    target_files(given["model"], save)  # rather refused now than after it was measured
    print(f"measuring {given['model']} and its plain model by turns; a nano model takes a minute", flush=True)
    result = measure(**given)
    table, picture = result.save(save)
    print(f"\n{result}\nwritten to {table} and {picture}")
    return 0


PROFILE = Command(
    "profile",
    "model=yolov8n-ela.yaml",
    "Measure what ELA costs, beside the plain model.",
    "The command measures a model YAML or a checkpoint with ELA beside its plain model, which is the same without "
    "the ELA rows: parameters, GFLOPs, latency in PyTorch (fused) and, with the extra `export`, in ONNX Runtime, "
    "forward and backward of training, and peak memory. It measures each ELA block within the model too. Both "
    "models run by turns, at batch 1, with as many threads as Ultralytics sets. The command prints two tables, and "
    "writes them as JSON and as a picture.",
    (
        Key("model", "yolov8n-ela.yaml", "A checkpoint (.pt) or a model YAML with ELA.", required=True),
        Key("imgsz", "640", "The side of the square image in pixels. The default is 640.", pixels),
        Key("device", "cpu", "cpu (the default), or a GPU as Ultralytics names it, such as 0."),
        Key(
            "save",
            "FILE.json",
            "The file to write, with the picture beside it. The default is yolov8n-ela-profile.json, in this folder. "
            "Files that are there are replaced.",
        ),
    ),
    profile,
)
