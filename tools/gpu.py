"""Measures the block and a training step on a GPU with AMP: ``python tools/gpu.py``, which takes about 6 minutes.

It writes docs/data/gpu.csv and prints the table for docs/cost.md. What is compared runs alternately in one process.
``python tools/gpu.py device=cpu`` runs it on small inputs, as a test.
"""

import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ela_yolo import ELA
from ela_yolo.cost.measure import peak_memory, wait
from ela_yolo.cost.timing import alternate, ratio_of
from ela_yolo.util.tables import markdown_table

RECORD = Path(__file__).parents[1] / "docs/data/gpu.csv"
MAPS = ((32, 160), (64, 80), (128, 40), (256, 20))  # channels and side in yolov8n at 640 px
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}


def main(device: str = "0") -> list[dict[str, Any]]:
    """Measure, print the tables, and return the rows of the record."""
    small = device == "cpu"
    where = torch.device("cpu" if small else f"cuda:{device}")
    batch, imgsz = (2, 64) if small else (16, 640)
    rows = blocks(where, batch, rounds=3 if small else 40, shrink=8 if small else 1)
    for scale, compiled in (("n", False), ("s", False), ("n", True)):
        rows.append(step(scale, compiled and not small, where, batch, imgsz, rounds=3 if small else 20))
    name = "CPU" if small else torch.cuda.get_device_name(where)
    return [{"device": name, "torch": str(torch.__version__), **row} for row in rows]


def blocks(device: torch.device, batch: int, rounds: int, shrink: int) -> list[dict[str, Any]]:
    """Time forward and backward of one block for each map, dtype under autocast, and memory format."""
    rows = []
    for channels, side in MAPS:
        calls = {}
        for dtype, layout in ((dtype, layout) for dtype in DTYPES for layout in LAYOUTS):
            x = torch.randn(batch, channels, side // shrink, side // shrink, device=device)
            x = x.to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
            calls[dtype + layout] = partial(block_step, ELA(channels, gate="identity").to(device), x, DTYPES[dtype])
        seconds = alternate(calls, rounds)
        for name, times in seconds.items():
            ratio, low, high = ratio_of(seconds["float32"], times)
            what = f"block {batch}x{channels}x{side}x{side}, {name}"
            rows.append({"what": what, "ms": 1000 * median(times), "ratio": ratio, "low": low, "high": high, "MB": ""})
    return rows


def block_step(block: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Run a block forward and backward, and wait for the device."""
    with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
        y = block(x)
    y.sum().backward()
    wait(x.device)


def step(scale: str, compiled: bool, device: torch.device, batch: int, imgsz: int, rounds: int) -> dict[str, Any]:
    """Time a training step of YOLOv8 with four ELA blocks beside the plain model's, with AMP."""
    calls = {name: training_step(f"yolov8{scale}{name}.yaml", compiled, device, batch, imgsz) for name in ("", "-ela")}
    plain, ela = alternate(calls, rounds).values()
    ratio, low, high = ratio_of(plain, ela)
    memory = [peak_memory(call, device) for call in calls.values()]
    what = f"training step of yolov8{scale}, {imgsz} px, batch {batch}" + ", compiled" * compiled
    used = "" if memory[0] is None else " and ".join(f"{each:.0f}" for each in memory if each is not None)
    return {"what": what, "ms": 1000 * median(ela), "ratio": ratio, "low": low, "high": high, "MB": used}


def training_step(model: str, compiled: bool, device: torch.device, batch: int, imgsz: int) -> Callable[[], None]:
    """Return a function that runs forward, backward and optimizer once."""
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    loaded: Any = YOLO(model).model
    net = loaded.to(device).train().requires_grad_(True)
    net.args = get_cfg()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    forward = torch.compile(net) if compiled else net
    data = {
        "img": torch.rand(batch, 3, imgsz, imgsz, device=device),
        "batch_idx": torch.arange(batch, device=device).float(),
        "cls": torch.zeros(batch, 1, device=device),
        "bboxes": torch.full((batch, 4), 0.5, device=device),
    }

    def run() -> None:
        optimizer.zero_grad()
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        with torch.autocast(device.type, dtype):
            loss = net.loss(data, forward(data["img"]))[0].sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        wait(device)

    return run


if __name__ == "__main__":
    start = time.monotonic()
    found = main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
    if found[0]["device"] != "CPU":
        with RECORD.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*found[0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    cells = [
        [r["what"], f"{r['ms']:.3g} ms", f"{r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})", r["MB"]]
        for r in found
    ]
    print(markdown_table(["", "time", "ratio, 95% interval", "peak MB: plain and ELA"], cells))
    print(f"\n{found[0]['device']}, torch {found[0]['torch']}, {time.monotonic() - start:.0f} s")
