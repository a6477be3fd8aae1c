"""Commands that show what ELA does and costs: ``quickstart``, ``ablate``, ``attention``, ``compare``, ``profile``."""

from __future__ import annotations

from typing import Any

from ela_yolo.cli.keys import Command, Key, names, number, whole, whole_numbers
from ela_yolo.cli.saving import save_result
from ela_yolo.errors import UsageError
from ela_yolo.util.console import say
from ela_yolo.util.json import check_json_name

_MODEL = Key("model", "best.pt", "A checkpoint (.pt) or a model YAML with ELA.", required=True)
_DATA = Key("data", "my.yaml", "A data-set YAML, or a folder for classification.", required=True)
_IMGSZ = Key("imgsz", "640", "The image size. The default is the size that the model was trained with.", whole)


def quickstart(given: dict[str, Any]) -> int:
    """Train with and without ELA on the embedded data, and show what attention does."""
    from ela_yolo.cli.quickstart import quickstart as run_quickstart

    for key in ("model", "name"):
        if key in given:
            raise UsageError(f"the quickstart has its own {key}; to train another model: yolo train model=...")
    return 0 if run_quickstart(given) else 1


QUICKSTART = Command(
    "quickstart",
    "",
    "Train with and without ELA, and show what attention does.",
    "The command trains yolov8n.pt with and without ELA on rows.yaml, which is rendered at first use. It measures what "
    "attention contributes, exports the model to ONNX, compares the file with the model, and draws which regions of "
    "some validation images support each detection. It ends with a table. Ultralytics downloads yolov8n.pt; without "
    "it, the command trains yolov8n-ela.yaml from scratch on scenes.yaml.",
    (),
    quickstart,
    other_keys="All keys are Ultralytics' train keys, such as epochs=60 or device=0. They replace those of the recipe.",
)


def ablate(given: dict[str, Any]) -> int:
    """Measure what attention contributes."""
    from ela_yolo.gates.ablation import ablate as measure

    save = given.pop("save", None)
    if save is not None:
        check_json_name(save)  # before the measurement, which takes minutes
    report = measure(**given)
    say(f"\n{report}\n")
    if save is not None:
        save_result(lambda: report.save(save), asked=True)
    return 0


ABLATE = Command(
    "ablate",
    "model=best.pt data=my.yaml",
    "Measure what the attention of each block contributes.",
    "The command validates the model as trained, and again with the gates of each block, and of all blocks, held "
    "constant at their mean over the images. A scale per channel remains; everything that varies by position or by "
    "image is removed. The difference is what attention contributes.\n\n"
    "For detect, segment, pose and OBB the difference has a 95% interval over images (a paired bootstrap). A block is "
    "needed if the interval is above 0, harmful if it is below 0, and otherwise not needed on these images. The "
    "command takes one validation per block, and at most three more.",
    (
        Key("model", "best.pt", "A checkpoint (.pt) with ELA or other blocks.", required=True),
        _DATA,
        Key("split", "val", "The split to measure on: train, val or test. The default is val."),
        Key("fraction", "0.1", "The share of the images to measure on. The default is 1, all of them.", number),
        _IMGSZ,
        Key("batch", "16", "The number of images in a batch. The default is 16.", whole),
        Key("device", "cpu", "cpu, or a GPU such as 0. The default is a GPU if there is one."),
        Key("save", "FILE.json", "The file to write the table to. Without it, the table is only printed."),
    ),
    ablate,
)


def attention(given: dict[str, Any]) -> int:
    """Draw which regions support each detection through attention."""
    from ela_yolo.gates.attention import attention as draw_attention
    from ela_yolo.gates.attention import attention_folder
    from ela_yolo.gates.page import PAGE

    given["save"] = folder = attention_folder(given["model"], given.get("save"))
    files = draw_attention(**given)
    say(f"{len(files)} {'picture' if len(files) == 1 else 'pictures'} written to {folder}")
    say(f"all in one page: {folder / PAGE}")
    return 0


ATTENTION = Command(
    "attention",
    "model=best.pt source=images/",
    "Show which regions of an image support each detection through attention.",
    "For each image the command draws the detections and, for the strongest ones, a map of the block that changes the "
    "detection the most. Red regions raise its score through attention, and blue regions lower it. The score is shown "
    "with and without this block's attention. The sum of a map is the change of the logit. The page index.html shows "
    "the first 60 images in a browser, with all blocks and their gates. An image takes some seconds on a CPU.",
    (
        _MODEL,
        Key(
            "source",
            "images/",
            "An image, a folder, a pattern such as 'images/*.jpg', or a video, as for `yolo predict`.",
            required=True,
        ),
        Key("max_det", "6", "The number of detections to show per image. The default is 6.", whole),
        _IMGSZ,
        Key(
            "save",
            "FOLDER",
            "The folder for the pictures. The default is best-attention for best.pt, then best-attention-2.",
        ),
    ),
    attention,
)


def compare(given: dict[str, Any]) -> int:
    """Train models under the same conditions and compare them."""
    from ela_yolo.study.compare import compare as compare_models

    out = given.setdefault("out", "compare")
    result = compare_models(**given)
    say(f"\n{result}\n")
    save_result(
        lambda: f"{out}: {', '.join(file.name for file in result.save(out))}", False, "out= names another folder"
    )
    return 0


COMPARE = Command(
    "compare",
    "models=A,B data=my.yaml seeds=0,1,2,3,4,5",
    "Train models under the same conditions, and state what the difference shows.",
    "The command trains every model with every seed, with the same data, budget and keys, and measures the weights "
    "of the last epoch. It compares the models with the first one, seed by seed, by the main metric of their task. "
    "The tables have the metric with and without attention, AP of small, medium and large objects, "
    "parameters and GFLOPs. The differences have bootstrap intervals over seeds and over "
    "images and an exact test, and a sentence states what they show.\n\n"
    "Finished runs are kept. The same command continues after an interruption, and you can add seeds or models.",
    (
        Key(
            "models",
            "yolov8n.yaml,yolov8n-ela.yaml",
            "Model YAMLs or checkpoints, the baseline first. `ela-yolo insert model=yolov8n.pt block=CA` makes more of "
            "them: CA, CBAM, ECA and SE of timm, and ChannelScale, a control without attention.",
            names,
            required=True,
        ),
        _DATA,
        Key(
            "seeds",
            "0,1,2,3,4,5",
            "The seeds of every model. Fewer than six can show nothing, and each further model needs more of them.",
            whole_numbers,
            required=True,
        ),
        Key("split", "test", "The images to measure the trained models on: val or test. The default is val."),
        Key("out", "compare", "The folder of the runs and of compare.md, .tex, .csv, .json and .png."),
        Key("engine", "ray", "ray trains on all cores or GPUs in parallel (the extra ray)."),
    ),
    compare,
    other_keys="All other keys are Ultralytics' train keys, such as epochs=50 or imgsz=640.",
)


def profile(given: dict[str, Any]) -> int:
    """Measure a model and its baseline."""
    from ela_yolo.cost.measure import profile as measure

    save = given.pop("save", None)
    if save is not None:
        check_json_name(save)  # before the measurement, which takes a minute
    say(f"measuring {given['model']} and its baseline alternately; a nano model takes a minute")
    result = measure(**given)
    say(f"\n{result}")
    if save is not None:
        save_result(lambda: result.save(save), asked=True)
    return 0


PROFILE = Command(
    "profile",
    "model=yolov8n-ela.yaml",
    "Measure what ELA costs.",
    "The command measures a model with ELA and its baseline, the same model without the ELA rows: parameters, GFLOPs, "
    "latency in PyTorch (fused) and, with the extra `export`, in ONNX Runtime, forward and backward of training, and "
    "on a GPU peak memory. It also measures each ELA block within the model. Both models run alternately, at batch 1, "
    "with Ultralytics' number of threads. The command prints two tables.",
    (
        _MODEL,
        Key("imgsz", "640", "The side of the square image in pixels. The default is 640.", whole),
        Key("device", "cpu", "cpu (the default), or a GPU such as 0."),
        Key("save", "FILE.json", "The file to write the tables to. Without it, they are only printed."),
    ),
    profile,
)
