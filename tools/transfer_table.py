"""How many pretrained tensors are kept when a plain model's weights are loaded into the same model with ELA.

``python tools/transfer_table.py`` builds every family at every scale and for every task, gives each tensor of the plain
model a value of its own, loads it into the model with ELA after each backbone stage, and prints a table.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

TASKS = ("", "-seg", "-pose", "-obb", "-cls")
MODELS = {
    **{f"{family}{task}": "nsmlx" for family in ("yolov8", "yolo11", "yolo12", "yolo26") for task in TASKS},
    "yolov5": "nsmlx",
    "yolov9": "tsmce",
    "yolov9-seg": "ce",
    "yolov10": "nsmblx",
}


def names(model):
    """Return Ultralytics' YAMLs of a model: yolov8-seg -> yolov8n-seg.yaml, yolov8s-seg.yaml, ..."""
    family, dash, task = model.partition("-")
    return [f"{family}{scale}{dash}{task}.yaml" for scale in MODELS[model]]


def mark(model):
    """Give every tensor of a model a value of its own; return value -> name."""
    values = {}
    for value, (name, tensor) in enumerate(model.state_dict().items(), 1000):
        tensor.fill_(value)
        values[value] = name
    return values


def landed(model, values):
    """Return tensor of the model -> tensor of the source whose value it has, for those that have one."""
    tensors = {name: (tensor, int(tensor.flatten()[0])) for name, tensor in model.state_dict().items()}
    return {
        name: values[value]
        for name, (tensor, value) in tensors.items()
        if value in values and bool((tensor == value).all())
    }


def transfer(name, folder):
    """Return (tensors in the right place, in a wrong place, of Ultralytics, and the transfer's report) for one YAML."""
    from ultralytics import YOLO

    import ela_yolo

    original = YOLO(name).model
    values = mark(original)
    insertion = ela_yolo.insert(name)
    file = folder / name
    file.write_text(insertion.text, encoding="utf-8")
    model = YOLO(file).model
    report = model.load(original, verbose=False)
    found = landed(model, values)
    right = {}
    for source in values.values():
        _, layer, rest = source.split(".", 2)
        right[f"model.{insertion.layer_map[int(layer)]}.{rest}"] = source
    good = sum(right.get(target) == source for target, source in found.items())
    return good, len(found) - good, len(values), report


def main():
    """Print the table."""
    os.environ["YOLO_VERBOSE"] = "false"  # Ultralytics prints a summary of each classifier
    print("| model | scales | pretrained tensors that are kept | in a wrong layer |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            rows = [transfer(name, Path(folder))[:3] for name in names(model)]
            kept = ", ".join(f"{good}/{total}" for good, _, total in rows)
            print(
                f"| {model} | {' '.join(MODELS[model])} | {kept} | {sum(wrong for _, wrong, _ in rows)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
