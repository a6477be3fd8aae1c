"""The result of a comparison of models over seeds: the numbers and their tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from ela_yolo.cost.result import Time
from ela_yolo.host.scoring import SIZES
from ela_yolo.study.picture import draw_comparison
from ela_yolo.study.runs import SeedRun
from ela_yolo.study.statistics import Difference, deviation
from ela_yolo.study.worker import SCHEMA
from ela_yolo.util.files import written_whole
from ela_yolo.util.json import write_json
from ela_yolo.util.tables import markdown_table

SCORES = {"map50_95": "mAP50-95", "map50": "mAP50", "precision": "precision", "recall": "recall"}
PRINTED = ("map50_95", "map50")  # with the others the table would be wider than a page
COSTS = ("parameters", "GFLOPs", "latency")


@dataclass(frozen=True)
class ModelSize:
    """The cost of one model with the classes of the data set.

    Attributes:
        model: The name of the model, without its ending.
        parameters: The number of parameters.
        gflops: The GFLOPs of one image, as Ultralytics counts them.
        latency: The time of the fused model in PyTorch on the CPU, at batch 1.
    """

    model: str
    parameters: int
    gflops: float
    latency: Time


@dataclass(frozen=True)
class CompareResult:
    """The result of :func:`compare`; printed, it is Markdown with tables and a verdict for each model.

    Attributes:
        data: The name of the data set.
        train: The train keys of all runs.
        machine: The processor, the threads and the version of PyTorch with which latencies were measured.
        sizes: The cost of each model; the baseline first.
        runs: The run of each model with each seed.
        differences: The paired differences of each other model to the baseline, with their tests and verdicts.
        attention: The difference of the model with ELA to its control without attention, if ``controls`` has ``scale``.

    Example:
        >>> from dataclasses import replace
        >>> run = SeedRun("plain", 0, 0.6, 0.400, 0.395, 0.7, 0.6, {}, {}, {}, (0.40,), (0.39, 0.40), 9.5, 640, 16)
        >>> ela = replace(run, model="ela", map50_95=0.412, epochs=(0.40, 0.412))
        >>> sizes = [ModelSize(name, 3_157_200, 8.9, Time(30, 29, 32)) for name in ("plain", "ela")]
        >>> result = CompareResult("my.yaml", {"epochs": 2}, "AMD EPYC", tuple(sizes), (run, ela), ())
        >>> result.seeds, result.epochs_to_reach("ela")
        ((0,), 1)
    """

    data: str
    train: Mapping[str, Any]
    machine: str
    sizes: tuple[ModelSize, ...]
    runs: tuple[SeedRun, ...]
    differences: tuple[Difference, ...]
    attention: Difference | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the runs."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    def of(self, model: str) -> tuple[SeedRun, ...]:
        """Return the runs of a model, seed by seed."""
        return tuple(run for run in self.runs if run.model == model)

    def epochs_to_reach(self, model: str) -> int | None:
        """Return the first epoch in which a model reaches the baseline's final score; None if there is none.

        Epochs are counted from 1. The scores are the means over the seeds of mAP50-95; the baseline's is that of its
        last epoch, which the baseline itself may reach earlier.
        """
        goal = self._curve(self.sizes[0].model)[-1:]
        return next((epoch for epoch, score in enumerate(self._curve(model), 1) if [score] >= goal), None)

    def _curve(self, model: str) -> list[float]:
        return [mean(scores) for scores in zip(*(run.epochs for run in self.of(model)), strict=True)]

    def __str__(self) -> str:
        names = [size.model for size in self.sizes]
        shown = [size for size in SIZES if self.runs[0].objects.get(size)]
        titles = [f"AP {size} ({self.runs[0].objects[size]:,})" for size in shown]
        models = [
            [
                size.model,
                *(_spread([getattr(run, key) for run in self.of(size.model)]) for key in PRINTED),
                _without_attention(self.of(size.model)),
                *(_spread([run.sizes[each] for run in self.of(size.model)]) for each in shown),
                str(self.epochs_to_reach(size.model) or "-"),
                *_costs(size),
            ]
            for size in self.sizes
        ]
        classes = [
            [each, *(_spread([run.classes[each] for run in self.of(name) if each in run.classes]) for name in names)]
            for each in self.runs[0].classes
        ]
        head = [
            "",
            *(SCORES[key] for key in PRINTED),
            "mAP50-95 without attention",
            *titles,
            f"epochs to reach {names[0]}",
            *COSTS,
        ]
        differences = [f"mAP50-95, to {names[0]}", "mean", "95% over seeds", "95% over images", *self._p_titles()]
        return "\n".join(
            [
                markdown_table(head, models),
                "",
                markdown_table(["mAP50-95 of", *names], classes),
                "",
                markdown_table(differences, self._p_rows()),
                "",
                *(f"- {difference.verdict}" for difference in self.differences),
                *([f"- To the same without attention, {self.attention.verdict}"] if self.attention else []),
                "",
                *self._notes(names[0], bool(shown)),
            ]
        )

    def _notes(self, baseline: str, has_sizes: bool) -> Iterable[str]:
        seeds = ", ".join(map(str, self.seeds))
        keys = ", ".join(f"{key}={value}" for key, value in self.train.items()) or "the defaults"
        yield (
            f"{self.data}, seeds {seeds}, {self.runs[0].imgsz} px, trained with {keys}. Mean ± standard deviation "
            "over all seeds, of the last epoch's weights: to take the best epoch, or the best seed, would be to "
            "choose on the images that are measured on."
        )
        yield ""
        if has_sizes:
            yield (
                "AP small, medium, large: AP at IoU 0.5 to 0.95 of objects up to 32² px, up to 96² px and above, as "
                "COCO counts it; in brackets, how many of them the validation images show."
            )
            yield ""
        yield (
            "Without attention: the same weights with all gates held constant, per channel, at their mean over the "
            "validation images. Where that scores the same, attention contributes nothing to the model."
        )
        yield ""
        yield (
            f"Epochs to reach {baseline}: the first epoch whose mAP50-95, the mean over the seeds, is at least that of "
            f"{baseline} after its last epoch; - if there is none."
        )
        yield ""
        yield (
            "95% over seeds: a bootstrap of the paired differences, for what other seeds may give; too narrow with few "
            "seeds. 95% over images: a bootstrap of the validation images, for what other images of their kind may "
            "give to the same trained models. p is from the exact sign-flip test over the seeds. A longer training may "
            "give something else."
        )
        yield ""
        yield f"Latency: fused, batch 1, median (and from the lowest to the highest tenth); {self.machine}"

    def _p_titles(self) -> list[str]:
        return ["p", "p (Holm)"] if len(self.differences) > 1 else ["p"]

    def _p_rows(self) -> Iterable[list[str]]:
        for each in self.differences:
            spread = f"{each.mean:+.4f}" + ("" if each.deviation is None else f" ± {each.deviation:.4f}")
            ends = ((each.low, each.high), (each.images_low, each.images_high))
            shown = [*(f"{low:+.4f} to {high:+.4f}" for low, high in ends), f"{each.p:.3g}", f"{each.adjusted:.3g}"]
            shown = shown[: 2 + len(self._p_titles())]
            yield [each.model, spread, *(shown if each.sayable else [""] * len(shown))]

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write compare.md, compare.csv (a row for each run), compare.json and compare.png, and return these files."""
        files = tuple(Path(folder) / f"compare.{ending}" for ending in ("md", "csv", "json", "png"))
        with written_whole(files[0]) as part:
            part.write_text(f"{self}\n", encoding="utf-8")
        with written_whole(files[1]) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._csv_rows())
        write_json(files[2], self._json())
        with written_whole(files[3]) as part:
            draw_comparison(self).savefig(part, format="png", dpi=120)
        return files

    def _csv_rows(self) -> Iterable[list[Any]]:
        classes = [*self.runs[0].classes]
        by_class = [f"mAP50-95 of {each}" for each in classes]
        by_size = [*(f"AP {size}" for size in SIZES), *(f"{size} objects" for size in SIZES)]
        yield ["model", "seed", *SCORES.values(), "mAP50-95 without attention", *by_size, *by_class, "seconds"]
        for run in self.runs:
            numbers = [
                *(getattr(run, key) for key in SCORES),
                run.without_attention,
                *map(run.sizes.get, SIZES),
                *map(run.objects.get, SIZES),
                *map(run.classes.get, classes),
                run.seconds,
            ]
            cells = (number if number is not None and isfinite(number) else "" for number in numbers)
            yield [run.model, run.seed, *cells]

    def _json(self) -> dict[str, Any]:
        runs = [{key: value for key, value in asdict(run).items() if key != "resampled"} for run in self.runs]
        epochs = {size.model: self.epochs_to_reach(size.model) for size in self.sizes}
        verdicts = [difference.verdict for difference in self.differences]
        return {"schema": SCHEMA, **asdict(self), "runs": runs, "epochs_to_reach": epochs, "verdicts": verdicts}


def _costs(size: ModelSize) -> tuple[str, ...]:
    return f"{size.parameters:,}", f"{size.gflops:.2f}", str(size.latency)


def _without_attention(runs: Sequence[SeedRun]) -> str:
    values = [run.without_attention for run in runs]
    return _spread(values) if all(map(isfinite, values)) else "-"


def _spread(values: Sequence[float]) -> str:
    spread = deviation(values) if values else None
    return (f"{mean(values):.4f}" if values else "") + ("" if spread is None else f" ± {spread:.4f}")
