"""Measures the cost of ELA: of a model beside its plain model, and of each block."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ela_yolo.cost.result import BlockCost, ModelCost, Profile, Time
from ela_yolo.cost.timing import alternate, machine, ratio_of
from ela_yolo.edit.insert import remove
from ela_yolo.errors import ExportError, InputError
from ela_yolo.host.blocks import describe
from ela_yolo.host.calls import count_parameters, gflops, select_device
from ela_yolo.host.lookup import find_model, open_model
from ela_yolo.host.model_blocks import all_blocks
from ela_yolo.host.patches import require_registered
from ela_yolo.parity.export import export_file
from ela_yolo.parity.exported_file import ExportedFile
from ela_yolo.parity.runtimes import check_runtime
from ela_yolo.util.quiet import quiet
from ela_yolo.util.text import command_line

SIDES = ("plain", "ela")
ROUNDS, TRAINING_ROUNDS = 60, 12
REST = 0.02  # s, see alternate()


def profile(model: str | Path, imgsz: int = 640, device: str = "cpu") -> Profile:
    """Measure the cost of a model with ELA and of its baseline, the same model without the blocks.

    Both models run alternately in this process, so that machine load affects both alike. A nano model takes a minute.

    Args:
        model: A model YAML or a checkpoint (.pt) with ELA, found as Ultralytics finds it.
        imgsz: The side of the square image, in px.
        device: The device as Ultralytics names it: ``cpu``, ``0``.

    Returns:
        The values of both models, their ratios with 95% intervals, and the cost of each block.

    Raises:
        InputError: If there is no such YAML, the model has no ELA, or ``imgsz`` is not 2 or more times its stride.
        ModelYamlError: If the YAML is not a model YAML.
        CheckpointError: If the checkpoint cannot be read, or holds no model of Ultralytics.
        RegistrationError: If Ultralytics is not as this package expects.

    Examples:
        >>> profile("yolov8n-ela.yaml").ratios["latency"]  # doctest: +SKIP
        1.013
    """
    require_registered()
    if not isinstance(model, str | Path):
        raise InputError(f"profile takes a model YAML or a checkpoint, not a {type(model).__name__} object")
    threads = torch.get_num_threads()
    where = select_device(device)  # on a CPU this also sets the number of threads, as in all commands
    try:
        return _profile(model, imgsz, where)
    finally:
        torch.set_num_threads(threads)


def _profile(model: str | Path, imgsz: int, device: torch.device) -> Profile:
    file = find_model(model)
    with tempfile.TemporaryDirectory() as name:
        ela = open_model(model)
        if not all_blocks(ela.model):
            remedy = f"insert it first: {command_line('ela-yolo', 'insert', f'model={model}')}"
            raise InputError(f"model={model} has no ELA; {remedy}")
        plain_file = Path(name) / f"plain-{Path(model).name}"
        remove(file, save=plain_file)
        models = [open_model(plain_file), ela]
        stride = int(max(ela.model.stride))
        if imgsz % stride or imgsz == stride:  # BatchNorm cannot learn from a map of one pixel
            raise InputError(f"imgsz={imgsz} must be a multiple of {stride}, and at least {2 * stride}; use 640")
        image = torch.rand(1, ela.model.yaml.get("channels", 3), imgsz, imgsz, device=device)
        sessions = _sessions(models, imgsz, Path(name))
        measured = _measure([each.model.float().to(device) for each in models], image, sessions)
    plain, with_ela = (ModelCost(**{key: _cost(values[i]) for key, values in measured.items()}) for i in (0, 1))
    ratios = {key: _ratio(*values) for key, values in measured.items() if values[0] is not None}
    intervals = {key: ratio_of(*values)[1:] for key, values in measured.items() if isinstance(values[0], list)}
    blocks = tuple(_measure_blocks(ela.model, image))
    return Profile(str(model), imgsz, str(device), machine(), plain, with_ela, ratios, intervals, blocks)


def _measure(models: list[Any], image: Tensor, sessions: list[ExportedFile]) -> dict[str, tuple[Any, Any]]:
    """Return for each row of the table the values of both models: numbers, lists of seconds, or None."""
    fused = [deepcopy(model).eval().fuse(verbose=False) for model in models]
    for model in models:
        model.train().requires_grad_(True)
    inferring = {side: partial(infer, model, image) for side, model in zip(SIDES, fused, strict=True)}
    train = {side: partial(_train, model, image) for side, model in zip(SIDES, models, strict=True)}
    onnx = {side: partial(each.run, image.cpu()) for side, each in zip(SIDES, sessions, strict=False)}
    sides: dict[str, Any] = {
        "parameters": [count_parameters(model) for model in models],
        "gflops": [gflops(model, image.shape[2]) for model in models],
        "latency": alternate(inferring, ROUNDS).values(),
        "onnx": alternate(onnx, ROUNDS, REST).values() if onnx else (None, None),
        "training": alternate(train, TRAINING_ROUNDS).values(),
        "memory": [peak_memory(call, image.device) for call in inferring.values()],
        "training_memory": [peak_memory(call, image.device) for call in train.values()],
    }
    return {key: tuple(values) for key, values in sides.items()}


def _sessions(models: list[Any], imgsz: int, folder: Path) -> list[ExportedFile]:
    try:
        check_runtime("onnx")
    except ExportError:
        return []
    sessions = []
    with quiet(logging.INFO):  # Ultralytics logs what to do with the files, which are temporary
        for side, model in zip(SIDES, models, strict=True):
            model.ckpt_path = model.model.pt_path = str(folder / f"{side}-export.pt")  # names the file
            exported = export_file(model, {"format": "onnx", "imgsz": imgsz, "device": "cpu"})
            sessions.append(ExportedFile(exported, count_parameters(model.model)))
    return sessions


def infer(model: nn.Module, image: Tensor) -> None:
    """Run a model for inference, and wait until the device has finished."""
    with torch.inference_mode():
        model(image)
    wait(image.device)


def _train(model: nn.Module, image: Tensor) -> None:
    """Run forward and backward. A loss would need labels, so the mean of all outputs replaces it."""
    loss: Any = sum(output.mean() for output in _tensors(model(image)) if output.requires_grad)
    loss.backward()
    wait(image.device)
    model.zero_grad()  # so that the next step allocates its gradients again


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict | list | tuple):
        for output in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _tensors(output)


def wait(device: torch.device) -> None:
    """Wait until a device has finished; ``torch.mps.synchronize`` takes no device."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(*[] if device.type == "mps" else [device])


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """Return the peak memory that a call allocates, in MB; None if the device does not report it."""
    call()
    memory = getattr(torch, device.type)
    if not hasattr(memory, "max_memory_allocated"):
        return None
    before = memory.memory_allocated(device)
    memory.reset_peak_memory_stats(device)
    call()
    return float(memory.max_memory_allocated(device) - before) / 1e6


def _measure_blocks(model: Any, image: Tensor) -> Iterator[BlockCost]:
    """Measure each block within a run of the model, so that the caches are as its neighbours leave them."""
    model = model.eval().fuse(verbose=False)
    blocks = all_blocks(model)
    shapes: dict[str, tuple[int, int, int]] = {}
    marks: dict[str, list[float]] = {name: [] for name in blocks}

    def mark(_: nn.Module, inputs: tuple[Tensor, ...], *output: Tensor, name: str) -> None:
        wait(image.device)
        marks[name].append(time.perf_counter())
        shapes[name] = tuple(inputs[0].shape[1:])  # type: ignore[assignment]

    for name, block in blocks.items():
        block.register_forward_pre_hook(partial(mark, name=name))
        block.register_forward_hook(partial(mark, name=name))
    whole = alternate({"model": partial(infer, model, image)}, ROUNDS)["model"]
    for name, block in blocks.items():
        times = marks[name][-2 * ROUNDS :]
        seconds = [after - before for before, after in zip(times[::2], times[1::2], strict=True)]
        share = median(seconds) / median(whole)
        yield BlockCost(name, describe(block), shapes[name], count_parameters(block), Time.of(seconds), share)


def _cost(measured: Any) -> Any:
    return Time.of(measured) if isinstance(measured, list) else measured


def _ratio(plain: Any, ela: Any) -> float | None:
    if isinstance(plain, list):
        return ratio_of(plain, ela)[0]
    return float(ela / plain) if plain else None
