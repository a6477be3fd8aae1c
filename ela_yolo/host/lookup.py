"""Finds, checks and opens models, YAMLs and data sets, as Ultralytics finds them and before it reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ela_yolo.errors import CheckpointError, ELAError, InputError, ModelYamlError
from ela_yolo.host.blocks import known_blocks
from ela_yolo.host.calls import image_files
from ela_yolo.host.checkpoints import check_classes, unreadable
from ela_yolo.host.older_releases import check_dataset
from ela_yolo.host.unknown_modules import row_hint
from ela_yolo.util.packaged import packaged_yamls
from ela_yolo.util.text import did_you_mean, one_line

YAML = (".yaml", ".yml")
_FORMER = r"^(yolov[58][nslmx])6\."  # Ultralytics' former names of YAMLs
_SCALE = r"(\d+)([nslmx])(.*)$"  # yolov8n-seg.yaml is yolov8-seg.yaml at scale n


def find_model(model: str | Path) -> Path:
    """Return the file of a model YAML or a checkpoint, looked up as Ultralytics does it.

    A checkpoint that Ultralytics would download need not be there yet.
    """
    from ultralytics.utils import LOGGER, SETTINGS
    from ultralytics.utils.checks import check_yolov5u_filename
    from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

    named = Path(str(model).strip())
    file = Path(check_yolov5u_filename(str(named), verbose=False))  # yolov5s.pt is yolov5su.pt
    if file.suffix == ".pt" and file != named:
        LOGGER.warning(f"ela-yolo: Ultralytics reads {file} instead of {model}")
    if file.suffix in YAML:
        return _find_yaml(file)
    if not file.suffix and file.stem in GITHUB_ASSETS_STEMS:
        file = file.with_suffix(".pt")
    if file.suffix != ".pt":
        raise InputError(f"model={model} is neither a model YAML nor a checkpoint; name a .yaml or a .pt file")
    if file.is_dir():
        raise CheckpointError(f"{model} is a folder; use the checkpoint in it, such as {file / 'best.pt'}")
    elsewhere = Path(SETTINGS["weights_dir"]) / file
    if not file.is_file() and not elsewhere.is_file() and file.stem not in GITHUB_ASSETS_STEMS:
        near = did_you_mean(file.name, [each.name for each in file.parent.glob("*.pt")]) or "; check the name"
        raise CheckpointError(f"there is no {model}{near}")
    return elsewhere if elsewhere.is_file() and not file.is_file() else file


def _find_yaml(file: Path) -> Path:
    from ultralytics import __version__
    from ultralytics.utils import LOGGER
    from ultralytics.utils.checks import check_version, check_yaml

    if not file.is_file() and re.match(_FORMER, file.name):
        former, file = file.name, file.with_name(re.sub(_FORMER, r"\1-p6.", file.name))
        LOGGER.warning(f"ela-yolo: Ultralytics reads {file.name} instead of {former}")
    names = [file, file.with_name(re.sub(_SCALE, r"\1\3", file.name))]
    for name in names if check_version(__version__, ">=8.4.144") else reversed(names):
        found = check_yaml(str(name), hard=False)
        if found and Path(found).is_dir():
            raise InputError(f"{found} is a folder; name a model YAML")
        if found:
            return Path(found)
    scale = re.search(_SCALE, file.name)
    known = _known_yamls("models", "cfg", file.parent)
    if scale:
        known = [re.sub(r"(\d)(?=[-.])", rf"\g<1>{scale[2]}", name, count=1) for name in known]
    near = did_you_mean(file.name, known) or "; check the name"
    raise InputError(f"there is no {file}, neither here nor among the YAMLs of Ultralytics and ela-yolo{near}")


def find_weights(name: str) -> Path | None:
    """Return the file of a checkpoint of Ultralytics, which it may download; None if it cannot be had."""
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        file = Path(attempt_download_asset(name))
    except Exception:  # of the network or the disk, by many types
        return None
    return file if file.is_file() else None


def open_model(model: str | Path) -> Any:
    """Return the ``YOLO`` or ``RTDETR`` object of a model YAML or a checkpoint, or of a URL of a checkpoint."""
    from ultralytics import RTDETR, YOLO

    kind = RTDETR if "rtdetr" in Path(model).stem.lower() else YOLO
    if "://" in str(model):
        return kind(str(model))
    file = find_model(model)
    if file.suffix == ".pt":
        check_classes(file)
        try:
            return kind(str(file))
        except ELAError:
            raise
        except Exception as error:  # Ultralytics reports damage by many types
            raise unreadable(file, error) from error
    if re.match(_FORMER, file.name):
        raise ModelYamlError(
            f"{file} has a former name of Ultralytics', which reads its own file instead; rename yours"
        )
    try:
        return kind(str(model).strip())  # which names the scale
    except ELAError:
        raise
    except Exception as error:  # of Ultralytics or of a user's module
        if isinstance(error, KeyError) and str(error.args[0]).isidentifier():
            remedy = row_hint(error.args[0], known_blocks()) or "a YAML that uses it needs the code it came with"
            raise ModelYamlError(
                f"{file} names {error.args[0]}, which is not a module of Ultralytics; {remedy}"
            ) from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelYamlError(f"{file} holds a model that Ultralytics cannot build; correct it ({reason})") from error


def check_data(data: str, split: str = "val") -> None:
    """Check that a data set's YAML exists and its images are there. Ultralytics checks folders, archives and URLs."""
    from ultralytics.utils.checks import check_file

    file = Path(data)
    if "://" in data or file.suffix not in YAML:
        return
    if not check_file(data, hard=False):
        near = did_you_mean(file.name, _known_yamls("datasets", "datasets", file.parent)) or "; check the name"
        raise InputError(f"there is no data={data}, neither here nor among the included data sets{near}")
    try:
        check_dataset(data, split)
    except ELAError:  # from this package's own data sets; it names its remedy
        raise
    except Exception as error:  # Ultralytics reports errors by many types
        remedy = "connect, or put the data there" if isinstance(error, ConnectionError) else "correct it"
        raise InputError(f"data={data}: {one_line(error)}; {remedy}") from error


def yaml_of_data(data: str) -> Path | None:
    """Return the file of a data set's YAML, found as Ultralytics finds it; None if the data set is a folder."""
    from ultralytics.utils.checks import check_file

    return Path(check_file(data)) if Path(data).suffix in YAML else None


def data_images(data: str, split: str, task: str) -> list[Path]:
    """Return the images of one split of a data set, sorted.

    As in Ultralytics, a split is a folder, a text file with an image in each line (``./`` is the folder of that file),
    or a list of these.

    Args:
        data: A data set's YAML, a folder that holds one, or for classification the folder of the splits.
        split: ``train``, ``val`` or ``test``.
        task: The task of the model.
    """
    from ultralytics.data.utils import check_cls_dataset

    try:
        places = (check_cls_dataset if task == "classify" else check_dataset)(data, split=split).get(split)
    except ELAError:
        raise
    except Exception as error:  # Ultralytics reports errors by many types
        raise InputError(f"data={data}: {one_line(error)}; fix it, or use another data set") from error
    images: list[Path] = []
    for place in map(Path, places if isinstance(places, list) else [places] if places else []):
        images += _listed(place) if place.is_file() else place.rglob("*.*")
    images = image_files([image.absolute() for image in images])
    if not images:
        raise InputError(
            f"data={data} has no images in its split {split}; name a split that has some, or put images there"
        )
    return images


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text; save it as UTF-8, one image per line") from None
    names = [line.strip() for line in lines if line.strip()]
    return [file.parent / name[2:] if name.startswith("./") else Path(name) for name in names]


def _known_yamls(kind: str, folder: str, here: Path) -> list[str]:
    from ultralytics.utils import ROOT

    ours = [file for file in packaged_yamls().values() if file.parent.name == folder]
    return [file.name for file in [*here.glob("*.yaml"), *ours, *(ROOT / "cfg" / kind).rglob("*.yaml")]]
