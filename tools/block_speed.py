"""How fast the ELA block is on this CPU, beside the code that people copy, timm's attention layers, and one product.

``python tools/block_speed.py`` (``make speed``) prints Markdown tables: inference, training (forward and backward), a
whole YOLOv8n with four ELA beside the plain one, and which of the project's aims that meets. All of a table runs in one
process, in an order that changes from round to round; times are medians of single calls, ratios medians over rounds.
"""

import os
import sys
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from timm.layers import create_attn
from torch import nn

from ela_yolo import ELA
from ela_yolo.cost.measure import infer
from ela_yolo.cost.timing import alternate, machine

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

    def forward(self, x):
        """Scale the map by its gates."""
        b, c, h, w = x.shape
        along_h = self.sigmoid(self.gn(self.conv(x.mean(dim=3)))).view(b, c, h, 1)
        along_w = self.sigmoid(self.gn(self.conv(x.mean(dim=2)))).view(b, c, 1, w)
        return x * along_h * along_w


def blocks(channels: int) -> dict[str, nn.Module]:
    """Return what is compared."""
    compared = {OURS: ELA(channels), COPIED: EfficientLocalizationAttention(channels)}
    return compared | {title: create_attn(name, channels) for title, name in TIMM.items()}


def train(module, x, grad):
    """Run forward and backward."""
    module(x).backward(grad)


def scale(x):
    """Multiply the map by a constant: what moving it costs."""
    with torch.inference_mode():
        return x * 1.01


def table(title, measured):
    """Print the medians of each shape, and return how much slower than ours the others are there: name -> ratios."""
    columns = list(next(iter(measured.values())))
    print(f"\n| {title}, us | {' | '.join(columns)} | {COPIED} / ours |\n|---|{'---|' * (len(columns) + 1)}")
    slower = {name: [] for name in columns}
    for shape, seconds in measured.items():
        for name, times in seconds.items():
            slower[name].append(ratio(seconds[OURS], times))
        cells = (f"{1e6 * median(times):.0f}" for times in seconds.values())
        print(f"| {' x '.join(map(str, shape))} | {' | '.join(cells)} | {slower[COPIED][-1]:.2f} |", flush=True)
    return {f"{title}, {name} / ours": ratios for name, ratios in slower.items()}


def ratio(ones, others):
    """Return how long the others took, in the ones' time: the median over the rounds."""
    return median(b / a for a, b in zip(ones, others, strict=True))


def whole_model():
    """Print the latency of YOLOv8n with four ELA beside the plain one, at 640 px, and return the ratio."""
    from ultralytics import YOLO

    names = ("yolov8n.yaml", "yolov8n-ela.yaml")
    models = {name: YOLO(name).model.eval().fuse(verbose=False) for name in names}
    written = YOLO(names[1]).model.eval().fuse(verbose=False)
    for module in written.modules():
        if isinstance(module, ELA):  # whoever watches the convolution gets the formula as it is written
            module.conv.register_forward_hook(lambda *_: None)
    models["the same, the formula as written"] = written
    image = torch.rand(1, 3, 640, 640)
    seconds = alternate({name: partial(infer, model, image) for name, model in models.items()}, MODEL_ROUNDS)
    print("\n| whole model, 640 px, fused | median ms | ratio |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {1000 * median(times):.1f} | {ratio(seconds[names[0]], times):.3f} |")
    return {"whole model, with ELA / plain": [ratio(*(seconds[name] for name in names))]}


def main():
    """Print the tables."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    inference, training = {}, {}
    for shape in SHAPES:
        x, grad = torch.randn(shape), torch.randn(shape)
        modules = blocks(shape[1])
        calls = {"x constant": partial(scale, x)}
        calls |= {name: partial(infer, module.eval(), x) for name, module in modules.items()}
        inference[shape] = alternate(calls, ROUNDS)
        leaf = x.clone().requires_grad_()
        training[shape] = alternate({k: partial(train, m.train(), leaf, grad) for k, m in modules.items()}, ROUNDS // 3)
    found = table("inference", inference) | table("forward and backward", training) | whole_model()
    print("\n| aim | | measured | |\n|---|---|---|---|")
    for name, (sign, bound) in AIMS.items():
        ratios = found[name]
        met = {">=": min(ratios) >= bound, ">": min(ratios) > bound, "<=": max(ratios) <= bound}[sign]
        print(f"| {name} | {sign} {bound} | {', '.join(f'{r:.4g}' for r in ratios)} | {'met' if met else 'missed'} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
