"""A part of a data set's images, as a data set of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from ela_yolo.errors import InputError
from ela_yolo.host.lookup import data_images, yaml_of_data
from ela_yolo.host.older_releases import check_dataset, load_yaml


@contextmanager
def subset_of(data: str, split: str, fraction: float, task: str) -> Iterator[str]:
    """Give a data set whose split has a share of the images, evenly spread, within a ``with`` block.

    Args:
        data: The data set's YAML.
        split: The split.
        fraction: The share, above 0 and at most 1; with 1 it is the data set itself.
        task: The task of the model.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        yield data
        return
    data_yaml = yaml_of_data(data)
    if data_yaml is None:
        raise InputError(f"fraction= needs a data-set YAML, and data={data} is none; name one, or leave it out")
    images = data_images(data, split, task)
    count = max(1, round(fraction * len(images)))
    chosen = [images[number * len(images) // count] for number in range(count)]
    with tempfile.TemporaryDirectory() as name:
        listed, file = Path(name) / "images.txt", Path(name) / "subset.yaml"
        listed.write_text("\n".join(map(str, chosen)), encoding="utf-8")
        content = load_yaml(data_yaml)
        content.pop("download", None)
        content = {**content, "path": str(check_dataset(data, split)["path"]), split: str(listed)}
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        yield str(file)
