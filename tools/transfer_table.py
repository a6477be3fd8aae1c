"""Counts the pretrained tensors that are kept when the weights of a plain model are loaded into the model with ELA.

``python tools/transfer_table.py`` builds every family at every scale and for every task. It gives each tensor of the
plain model a value of its own, loads them into the model with ELA after each backbone stage, and prints a table.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from ela_yolo.util.tables import markdown_row, markdown_table

TASKS = ("", "-seg", "-pose", "-obb", "-cls")
MODELS = {
    **{f"{family}{task}": "nsmlx" for family in ("yolov8", "yolo11", "yolo12", "yolo26") for task in TASKS},
    "yolov5": "nsmlx",
    "yolov9": "tsmce",
    "yolov9-seg": "ce",
    "yolov10": "nsmblx",
}


def names(model: str) -> list[str]:
    """Return Ultralytics' YAMLs of a model: yolov8-seg -> yolov8n-seg.yaml, yolov8s-seg.yaml, ..."""
    family, dash, task = model.partition("-")
    return [f"{family}{scale}{dash}{task}.yaml" for scale in MODELS[model]]


def mark(model: Any) -> dict[int, str]:
    """Give every tensor of a model a value of its own, and return value -> name."""
    values = {}
    for value, (name, tensor) in enumerate(model.state_dict().items(), 1000):
        tensor.fill_(value)
        values[value] = name
    return values


def landed(model: Any, values: dict[int, str]) -> dict[str, str]:
    """Return the tensors that were loaded: name in the model -> name of the source's tensor with the same value."""
    tensors = {name: (tensor, int(tensor.flatten()[0])) for name, tensor in model.state_dict().items()}
    return {
        name: values[value]
        for name, (tensor, value) in tensors.items()
        if value in values and bool((tensor == value).all())
    }


def transfer(name: str, folder: Path) -> tuple[int, int, int, Any]:
    """Return the numbers of tensors in the right place, in a wrong place and in all, and the report, for one YAML."""
    import ela_yolo
    from ela_yolo.host.lookup import open_model

    original = open_model(name).model
    values = mark(original)
    insertion = ela_yolo.insert(name)
    file = folder / Path(name).name
    file.write_text(insertion.text, encoding="utf-8")
    model = open_model(file).model
    report = model.load(original, verbose=False)
    found = landed(model, values)
    right = {}
    for source in values.values():
        _, layer, rest = source.split(".", 2)
        right[f"model.{insertion.layer_map[int(layer)]}.{rest}"] = source
    good = sum(right.get(target) == source for target, source in found.items())
    return good, len(found) - good, len(values), report


def main() -> None:
    """Print the table."""
    os.environ["YOLO_VERBOSE"] = "false"  # Ultralytics prints a summary of each classifier
    print(markdown_table(["model", "scales", "pretrained tensors that are kept", "in a wrong layer"]))
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            rows = [transfer(name, Path(folder))[:3] for name in names(model)]
            kept = ", ".join(f"{good}/{total}" for good, _, total in rows)
            wrong = sum(wrong for _, wrong, _ in rows)
            print(markdown_row([model, " ".join(MODELS[model]), kept, str(wrong)]), flush=True)


if __name__ == "__main__":
    main()
