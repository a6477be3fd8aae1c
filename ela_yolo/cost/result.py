"""The cost of a model with ELA beside its plain model: the numbers and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ela_yolo.util.json import check_json_name, write_json
from ela_yolo.util.tables import markdown_table

SCHEMA = 2  # of the JSON; raised when a key changes its name or meaning
ROWS = {  # attribute -> title
    "parameters": "parameters",
    "gflops": "GFLOPs",
    "latency": "PyTorch, fused",
    "onnx": "ONNX Runtime",
    "training": "training step",
    "memory": "peak memory",
    "training_memory": "peak memory, training",
}


@dataclass(frozen=True)
class Time:
    """The duration of runs, in ms.

    Attributes:
        median: The median of the runs.
        low: The 10th percentile.
        high: The 90th percentile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Time:
        """Return the statistics of runs, whose durations are given in seconds."""
        tenths = quantiles(seconds, n=10)
        return cls(1000 * median(seconds), 1000 * tenths[0], 1000 * tenths[-1])

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model at one image size and batch 1.

    Attributes:
        parameters: The number of parameters.
        gflops: The GFLOPs of one image, as Ultralytics counts them: of convolutions and linear layers only.
        latency: The time of the fused model in PyTorch.
        onnx: The time of its ONNX file in ONNX Runtime on the CPU; None if that is not installed.
        training: The time of forward and backward.
        memory: The peak memory of inference without weights and image, in MB; None if the device does not report it.
        training_memory: The peak memory of a training step without weights and image, in MB, or None.
    """

    parameters: int
    gflops: float
    latency: Time
    onnx: Time | None
    training: Time
    memory: float | None
    training_memory: float | None


@dataclass(frozen=True)
class BlockCost:
    """The cost of one block.

    Attributes:
        layer: The layer of the block, such as ``"3"``.
        block: The variant and the gate form, or the class of another block than ELA.
        input: Channels, height and width of its input.
        parameters: The number of its parameters.
        latency: The time of the block within a run of the fused model.
        share: The median time of the block, divided by that of the model.
    """

    layer: str
    block: str
    input: tuple[int, int, int]
    parameters: int
    latency: Time
    share: float


@dataclass(frozen=True)
class Profile:
    """The cost of a model with ELA beside the same model without it; printed, it is two Markdown tables.

    Attributes:
        model: The name of the model.
        imgsz: The side of the square image, in px.
        device: The device.
        machine: The processor, the number of threads and the version of PyTorch.
        plain: The cost of the model without its blocks.
        ela: The cost of the model.
        ratios: Attribute of ``ModelCost`` -> the model's value divided by the plain model's; of times, the median
            over the rounds. None if the plain model's value is 0.
        intervals: Attribute of times -> the ends of the ratio's 95% interval, a bootstrap over the rounds.
        blocks: The cost of each block.
    """

    model: str
    imgsz: int
    device: str
    machine: str
    plain: ModelCost
    ela: ModelCost
    ratios: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    blocks: tuple[BlockCost, ...]

    @property
    def kind(self) -> str:
        """The name of the blocks: ``ELA``, or the classes of other blocks."""
        return ", ".join(dict.fromkeys("ELA" if each.block.startswith("ELA-") else each.block for each in self.blocks))

    def __str__(self) -> str:
        rows = [key for key in ROWS if getattr(self.ela, key) is not None]
        models = [[ROWS[key], *(_cell(key, getattr(side, key)) for side in (self.plain, self.ela))] for key in rows]
        for row, key in zip(models, rows, strict=True):
            row.append(self._ratio_cell(key))
        blocks = [
            [b.layer, b.block, "x".join(map(str, b.input)), f"{b.parameters:,}", str(b.latency), f"{b.share:.1%}"]
            for b in self.blocks
        ]
        lines = [
            markdown_table(["", "plain model", f"with {self.kind}", "ratio"], models),
            "",
            markdown_table(["layer", "block", "input", "parameters", "latency", "share of the model's"], blocks),
            "",
            f"{self.model} at {self.imgsz} px, batch 1, {self.device}; {self.machine}",
        ]
        if self.ela.onnx is None:
            lines.append("ONNX Runtime was not measured: pip install onnx onnxslim onnxruntime")
        return "\n".join(lines)

    def _ratio_cell(self, key: str) -> str:
        ratio = self.ratios.get(key)
        if ratio is None:
            return "-"
        low, high = self.intervals.get(key, (None, None))
        return f"{ratio:.3f}" if low is None else f"{ratio:.3f} ({low:.3f} to {high:.3f})"

    def save(self, file: str | Path) -> Path:
        """Write the result as JSON.

        Returns:
            The file.

        Raises:
            InputError: If the name does not end in ``.json``, or there is no such folder.
            OSError: If the file cannot be written.
        """
        target = check_json_name(file)
        write_json(target, {"schema": SCHEMA, **asdict(self)})
        return target


def _cell(key: str, value: Any) -> str:
    if key == "parameters":
        return f"{value:,}"
    return f"{value:.1f} MB" if key.endswith("memory") else f"{value:.3f}" if key == "gflops" else str(value)
