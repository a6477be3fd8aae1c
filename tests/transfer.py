"""Counts the pretrained tensors that are kept when the weights of a plain model are loaded into the model with ELA.

Each tensor of the plain model gets a value of its own, so it can be found in the other model.
"""

from pathlib import Path

import ela_yolo
from ela_yolo.host.lookup import open_model

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
    """Give every tensor of a model a value of its own, and return value -> name."""
    values = {}
    for value, (name, tensor) in enumerate(model.state_dict().items(), 1000):
        tensor.fill_(value)
        values[value] = name
    return values


def landed(model, values):
    """Return the tensors that were loaded: name in the model -> name of the source's tensor with the same value."""
    tensors = {name: (tensor, int(tensor.flatten()[0])) for name, tensor in model.state_dict().items()}
    return {
        name: values[value]
        for name, (tensor, value) in tensors.items()
        if value in values and bool((tensor == value).all())
    }


def transfer(name, folder):
    """Return the numbers of tensors in the right place, in a wrong place and in all, and the report, for one YAML."""
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
