"""What a comparison of models over seeds found: the numbers, their tables and their picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from ela_yolo.cost import Time
from ela_yolo.files import written_whole
from ela_yolo.json_text import write_json
from ela_yolo.one_run import SCHEMA
from ela_yolo.paired import Difference, deviation
from ela_yolo.seed_runs import SeedRun

SCORES = {"map50_95": "mAP50-95", "map50": "mAP50", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class ModelSize:
    """What one of the models costs, with the classes of the data set.

    Attributes:
        model: The model's name without its ending.
        parameters: How many.
        gflops: Of one image, as the host counts them.
        latency: Of the fused model in PyTorch on the CPU, at batch 1.
    """

    model: str
    parameters: int
    gflops: float
    latency: Time


@dataclass(frozen=True)
class CompareResult:
    """Models beside each other over seeds; printed, it is Markdown.

    Attributes:
        data: The data set, as it was named.
        train: The train keys that all runs share.
        machine: Processor, threads and version of PyTorch of the latencies.
        sizes: Each model, the baseline first.
        runs: Every model with every seed.
        differences: Each model but the first, to the first.
    """

    data: str
    train: Mapping[str, Any]
    machine: str
    sizes: tuple[ModelSize, ...]
    runs: tuple[SeedRun, ...]
    differences: tuple[Difference, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    def of(self, model: str) -> tuple[SeedRun, ...]:
        """Return a model's runs, seed by seed."""
        return tuple(run for run in self.runs if run.model == model)

    def __str__(self) -> str:
        names = [size.model for size in self.sizes]
        scores = [
            [
                size.model,
                *(_spread([getattr(run, key) for run in self.of(size.model)]) for key in SCORES),
                *_costs(size),
            ]
            for size in self.sizes
        ]
        classes = [
            [each, *(_spread([run.classes[each] for run in self.of(name) if each in run.classes]) for name in names)]
            for each in self.runs[0].classes
        ]
        seeds = ", ".join(map(str, self.seeds))
        keys = ", ".join(f"{key}={value}" for key, value in self.train.items()) or "the defaults"
        return "\n".join(
            [
                *_table(["", *SCORES.values(), "parameters", "GFLOPs", "latency"], scores),
                "",
                *_table(["mAP50-95 of", *names], classes),
                "",
                *_table([f"mAP50-95, to {names[0]}", "mean", "95% interval", *self._p_titles()], self._p_rows()),
                "",
                *(f"- {difference.verdict}" for difference in self.differences),
                "",
                f"{self.data}, seeds {seeds}, {self.runs[0].imgsz} px, trained with {keys}. Mean ± standard deviation "
                "over all seeds, of the last epoch's weights: to take the best epoch, or the best seed, would be to "
                "choose on the images that are measured on. The interval is a bootstrap of the paired differences, "
                "too narrow with few seeds; p is from the exact sign-flip test. Both are about the seeds alone: other "
                "images, or a longer training, may give something else.",
                "",
                f"Latency: fused, batch 1, median (and from the lowest to the highest tenth); {self.machine}",
            ]
        )

    def _p_titles(self) -> list[str]:
        return ["p", "p (Holm)"] if len(self.differences) > 1 else ["p"]

    def _p_rows(self) -> Iterable[list[str]]:
        for each in self.differences:
            spread = f"{each.mean:+.4f}" + ("" if each.deviation is None else f" ± {each.deviation:.4f}")
            shown = [f"{each.low:+.4f} to {each.high:+.4f}", f"{each.p:.3g}", f"{each.adjusted:.3g}"]
            shown = shown[: 1 + len(self._p_titles())]
            yield [each.model, spread, *(shown if each.sayable else [""] * len(shown))]

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write compare.md, compare.csv (a row per run), compare.json and compare.png, and return these files."""
        files = tuple(Path(folder) / f"compare.{ending}" for ending in ("md", "csv", "json", "png"))
        verdicts = [difference.verdict for difference in self.differences]
        with written_whole(files[0]) as part:
            part.write_text(f"{self}\n", encoding="utf-8")
        with written_whole(files[1]) as part, part.open("w", newline="", encoding="utf-8") as file:
            classes = [*self.runs[0].classes]
            writer = csv.writer(file)
            writer.writerow(
                ["model", "seed", *SCORES.values(), *(f"mAP50-95 of {each}" for each in classes), "seconds"]
            )
            for run in self.runs:
                numbers = [*(getattr(run, key) for key in SCORES), *map(run.classes.get, classes), run.seconds]
                cells = (number if number is not None and isfinite(number) else "" for number in numbers)
                writer.writerow([run.model, run.seed, *cells])
        write_json(files[2], {"schema": SCHEMA, **asdict(self), "verdicts": verdicts})
        with written_whole(files[3]) as part:
            _draw(self).savefig(part, format="png", dpi=120)
        return files


def _costs(size: ModelSize) -> tuple[str, ...]:
    return f"{size.parameters:,}", f"{size.gflops:.2f}", str(size.latency)


def _spread(values: Sequence[float]) -> str:
    spread = deviation(values) if values else None
    return (f"{mean(values):.4f}" if values else "") + ("" if spread is None else f" ± {spread:.4f}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _draw(result: CompareResult) -> Any:
    """Return a figure: each model's seeds, joined seed by seed, and their differences to the baseline."""
    from matplotlib.figure import Figure

    names = [size.model for size in result.sizes]
    scores = [[run.map50_95 for run in result.of(name)] for name in names]
    if len(names) > 6:  # side by side they would be too wide for a page
        figure = Figure(figsize=(1 + 0.9 * len(names), 7), layout="constrained")
        left, right = figure.subplots(2, 1)
    else:
        figure = Figure(figsize=(max(8, 3 + 1.4 * len(names)), 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(len(names), max(1.2, len(names) - 1)))
    for by_seed in zip(*scores, strict=True):
        left.plot(range(len(names)), by_seed, color="#9aa5b1", linewidth=0.8, zorder=1)
    for place, values in enumerate(scores):
        left.scatter([place] * len(values), values, color="#3b6fb6", s=28, zorder=2)
        left.hlines(mean(values), place - 0.22, place + 0.22, color="black", linewidth=2, zorder=3)
    left.set(title="mAP50-95 of each seed, and the mean", xticks=range(len(names)), xticklabels=names)
    left.set_xlim(-0.6, len(names) - 0.4)
    right.axhline(0, color="black", linewidth=1)
    for place, each in enumerate(result.differences):
        right.scatter([place - 0.1] * len(each.values), each.values, color="#d1793c", s=28)
        spread = [[each.mean - each.low], [each.high - each.mean]] if each.sayable else None
        right.errorbar([place + 0.1], [each.mean], yerr=spread, color="black", fmt="_", ms=14, mew=2, capsize=4)
    right.set(
        title=f"difference to {names[0]},\nand 95% interval of the mean",
        xticks=range(len(result.differences)),
        xticklabels=[each.model for each in result.differences],
        xlim=(-0.6, len(result.differences) - 0.4),
    )
    for axes in (left, right):
        axes.title.set_size(10)
        axes.tick_params(axis="x", rotation=20 if len(names) > 2 else 0)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    data, seeds = Path(result.data).name, ", ".join(map(str, result.seeds))
    figure.suptitle(f"{data}, {result.runs[0].imgsz} px, seeds {seeds}", fontsize=11)
    return figure
