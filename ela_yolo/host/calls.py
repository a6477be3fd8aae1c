"""Functions of Ultralytics that other parts of this package call, with plain types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ela_yolo._version import __version__

Array = np.ndarray[Any, Any]


def export_suffixes() -> dict[str, str]:
    """Return the export formats of Ultralytics: name -> the ending of the exported file or folder."""
    from ultralytics.engine.exporter import export_formats

    table = export_formats()
    return dict([*zip(table["Argument"], table["Suffix"], strict=True)][1:])  # the first is PyTorch itself


def open_backend(file: Path) -> Any:
    """Return Ultralytics' ``AutoBackend`` of an exported file, which calls the runtime of the file's format."""
    from ultralytics.nn.autobackend import AutoBackend

    return AutoBackend(str(file), device=torch.device("cpu"))


def select_device(name: str) -> torch.device:
    """Return the device that Ultralytics names ``cpu`` or ``0``; on a CPU this also sets the number of threads."""
    from ultralytics.utils.torch_utils import select_device as select

    device: torch.device = select(name, verbose=False)
    return device


def image_files(files: Sequence[Path]) -> list[Path]:
    """Return the files that have the ending of an image format that Ultralytics reads, sorted."""
    from ultralytics.data.utils import IMG_FORMATS

    return sorted(file for file in files if file.suffix[1:].lower() in IMG_FORMATS)


def photographs() -> list[Path]:
    """Return the two photographs in Ultralytics' package."""
    from ultralytics.utils import ASSETS

    return sorted(Path(ASSETS).glob("*.jpg"))


def letterbox(picture: Array, imgsz: tuple[int, int]) -> Array:
    """Resize an image to fit into ``imgsz`` (height, width) and pad it, as Ultralytics' prediction does.

    Shape:
        - picture: ``(h, w, channels)``
        - Output: ``(H, W, channels)``
    """
    from ultralytics.data.augment import LetterBox

    boxed: Any = LetterBox(imgsz)(image=picture)
    return boxed.reshape(*boxed.shape[:2], -1)  # type: ignore[no-any-return]  # OpenCV drops a single channel's axis


def rotated_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of each rotated box of ``a`` with each of ``b``.

    Shape:
        - a, b: ``(N, 5)`` and ``(M, 5)``: centre x and y, width, height in px, angle in rad
        - Output: ``(N, M)``
    """
    from ultralytics.utils.metrics import batch_probiou

    return torch.as_tensor(batch_probiou(a, b))


def package_versions() -> dict[str, str]:
    """Return the versions that the result of a training depends on, by package."""
    from ultralytics import __version__ as ultralytics_version

    return {"ela-yolo": __version__, "ultralytics": ultralytics_version, "torch": str(torch.__version__)}


def packages_folder() -> str:
    """Return the folder from which Ultralytics is imported."""
    from ultralytics.utils import ROOT

    return str(ROOT.parent)


def cpu_threads() -> int:
    """Return the number of threads that Ultralytics uses for a training."""
    from ultralytics.utils import NUM_THREADS

    return int(NUM_THREADS)


def count_parameters(model: Any) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops(model: nn.Module, imgsz: int = 640) -> float:
    """Return the GFLOPs of one image as Ultralytics counts them; 0 where ``thop`` is not installed."""
    from ultralytics.utils.torch_utils import get_flops

    return float(get_flops(model, imgsz))


def is_main_process() -> bool:
    """Return whether this is the only process of a training run, or the first of several."""
    from ultralytics.utils import RANK

    return int(RANK) < 1
