"""How fast the ELA block is on this CPU, beside the code that people copy, timm's attention layers, and one product.

``python tools/block_speed.py`` (``make speed``) prints Markdown tables: inference, training (forward and backward), a
whole YOLOv8n with four ELA beside the plain one, and which of the project's aims that meets. All of a table runs in one
process, in an order that changes from round to round; times are medians of single calls, ratios medians over rounds.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from timm.layers.create_attn import create_attn
from torch import Tensor, nn

from ela_yolo import ELA
from ela_yolo.cost.measure import infer
from ela_yolo.cost.timing import alternate, machine
from ela_yolo.host.lookup import open_model
from ela_yolo.util.tables import markdown_row, markdown_table

SHAPES = ((1, 32, 160, 160), (1, 64, 80, 80), (1, 128, 40, 40), (1, 256, 20, 20), (8, 64, 80, 80))
ROUNDS, MODEL_ROUNDS = 300, 100
COPIED, OURS = "copied code", "ela_yolo.ELA"
AIMS = {  # of a ratio: at every shape, or of the whole model
    "inference, copied code / ours": (">=", 3.0),
    "inference, timm ELA / ours": (">", 1.0),
    "inference, timm CA / ours": (">", 1.0),
    "forward and backward, copied code / ours": (">=", 1.5),
    "whole model, with ELA / plain": ("<=", 1.015),
}
TIMM = {"timm ELA": "ela", "timm CA": "coord", "SE": "se", "ECA": "eca", "CBAM": "cbam"}


class EfficientLocalizationAttention(nn.Module):
    """The formula as the copied class writes it."""

    def __init__(self, channel: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channel, channel, kernel_size, padding=kernel_size // 2, groups=channel, bias=False)
        self.gn = nn.GroupNorm(16, channel)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the map by its gates."""
        b, c, h, w = x.shape
        along_h = self.sigmoid(self.gn(self.conv(x.mean(dim=3)))).view(b, c, h, 1)
        along_w = self.sigmoid(self.gn(self.conv(x.mean(dim=2)))).view(b, c, 1, w)
        scaled: Tensor = x * along_h * along_w
        return scaled


def blocks(channels: int) -> dict[str, nn.Module]:
    """Return the blocks that are compared, by name."""
    compared = {OURS: ELA(channels), COPIED: EfficientLocalizationAttention(channels)}
    make: Any = create_attn
    return compared | {title: make(name, channels) for title, name in TIMM.items()}


def train(module: nn.Module, x: Tensor, grad: Tensor) -> None:
    """Run forward and backward."""
    module(x).backward(grad)


def scale(x: Tensor) -> Tensor:
    """Multiply the map by a constant, which shows the cost of moving it."""
    with torch.inference_mode():
        return x * 1.01


def table(title: str, measured: Mapping[tuple[int, ...], Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Print the medians of each shape, and return the ratios of the other blocks' times to ours: name -> ratios."""
    columns = list(next(iter(measured.values())))
    print(f"\n{markdown_table([f'{title}, us', *columns, f'{COPIED} / ours'])}")
    slower: dict[str, list[float]] = {name: [] for name in columns}
    for shape, seconds in measured.items():
        for name, times in seconds.items():
            slower[name].append(ratio(seconds[OURS], times))
        cells = (f"{1e6 * median(times):.0f}" for times in seconds.values())
        print(markdown_row([" x ".join(map(str, shape)), *cells, f"{slower[COPIED][-1]:.2f}"]), flush=True)
    return {f"{title}, {name} / ours": ratios for name, ratios in slower.items()}


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of the others' times, divided by the ones' times."""
    return median(b / a for a, b in zip(ones, others, strict=True))


def whole_model() -> dict[str, list[float]]:
    """Print the latency of YOLOv8n with four ELA beside the plain one, at 640 px, and return the ratio."""
    names = ("yolov8n.yaml", "yolov8n-ela.yaml")
    models = {name: open_model(name).model.eval().fuse(verbose=False) for name in names}
    written = open_model(names[1]).model.eval().fuse(verbose=False)
    for module in written.modules():
        if isinstance(module, ELA):  # with a hook, the block computes the formula as it is written
            module.conv.register_forward_hook(lambda *_: None)
    models["the same, the formula as written"] = written
    image = torch.rand(1, 3, 640, 640)
    seconds = alternate({name: partial(infer, model, image) for name, model in models.items()}, MODEL_ROUNDS)
    rows = [
        [name, f"{1000 * median(times):.1f}", f"{ratio(seconds[names[0]], times):.3f}"]
        for name, times in seconds.items()
    ]
    print(f"\n{markdown_table(['whole model, 640 px, fused', 'median ms', 'ratio'], rows)}")
    return {"whole model, with ELA / plain": [ratio(*(seconds[name] for name in names))]}


def main() -> None:
    """Print the tables."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    inference: dict[tuple[int, ...], dict[str, list[float]]] = {}
    training: dict[tuple[int, ...], dict[str, list[float]]] = {}
    for shape in SHAPES:
        x, grad = torch.randn(shape), torch.randn(shape)
        modules = blocks(shape[1])
        calls: dict[str, partial[Any]] = {"x constant": partial(scale, x)}
        calls |= {name: partial(infer, module.eval(), x) for name, module in modules.items()}
        inference[shape] = alternate(calls, ROUNDS)
        leaf = x.clone().requires_grad_()
        training[shape] = alternate({k: partial(train, m.train(), leaf, grad) for k, m in modules.items()}, ROUNDS // 3)
    found = table("inference", inference) | table("forward and backward", training) | whole_model()
    rows = []
    for name, (sign, bound) in AIMS.items():
        ratios = found[name]
        met = {">=": min(ratios) >= bound, ">": min(ratios) > bound, "<=": max(ratios) <= bound}[sign]
        rows.append([name, f"{sign} {bound}", ", ".join(f"{r:.4g}" for r in ratios), "met" if met else "missed"])
    print(f"\n{markdown_table(['aim', '', 'measured', ''], rows)}")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
