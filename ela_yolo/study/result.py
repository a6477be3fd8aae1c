"""The result of a comparison of models over seeds: the numbers and their tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from ela_yolo.host.scoring import METRICS, SIZES
from ela_yolo.study.picture import draw_comparison
from ela_yolo.study.runs import SeedRun
from ela_yolo.study.statistics import Difference, deviation
from ela_yolo.study.worker import SCHEMA
from ela_yolo.util.files import atomic_write
from ela_yolo.util.installer import installer
from ela_yolo.util.json import write_json
from ela_yolo.util.tables import latex_table, markdown_table


@dataclass(frozen=True)
class CompareResult:
    """The result of ``compare``; printed, it is Markdown with tables and a verdict for each model.

    Attributes:
        data: The name of the data set.
        split: The split that was measured on.
        task: The task of the models.
        train: The train keys of all runs.
        runs: The run of each model with each seed; the baseline first.
        differences: The paired differences of each other model to the baseline, with their tests and verdicts.

    Examples:
        >>> run = SeedRun("plain", 0, 0.40, 0.4, {}, {}, {}, {}, (), (0.39, 0.40), 3_157_200, 8.9, 9.5, 640, 16)
        >>> ela = SeedRun("ela", 0, 0.41, 0.4, {}, {}, {}, {}, (), (0.40, 0.41), 3_161_520, 8.9, 9.9, 640, 16)
        >>> result = CompareResult("my.yaml", "val", "detect", {"epochs": 2}, (run, ela), ())
        >>> result.models, result.seeds
        (('plain', 'ela'), (0,))
    """

    data: str
    split: str
    task: str
    train: Mapping[str, Any]
    runs: tuple[SeedRun, ...]
    differences: tuple[Difference, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models; the baseline first."""
        return tuple(dict.fromkeys(run.model for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the runs."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return METRICS[self.task].name

    def of(self, model: str) -> tuple[SeedRun, ...]:
        """Return the runs of a model, seed by seed."""
        return tuple(run for run in self.runs if run.model == model)

    def __str__(self) -> str:
        classes = [
            [
                each,
                *(_spread([run.classes[each] for run in self.of(name) if each in run.classes]) for name in self.models),
            ]
            for each in self.runs[0].classes
        ]
        by_class = [markdown_table([f"{self.metric} of", *self.models], classes), ""] if classes else []
        return "\n".join(
            [
                markdown_table(*self._table()),
                "",
                *by_class,
                markdown_table(*self._difference_table()),
                "",
                *(f"- {difference.verdict}" for difference in self.differences),
                "",
                *self._notes(),
            ]
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return the head and the rows of the table of the models."""
        name, key = METRICS[self.task].second
        sizes = [size for size in SIZES if all(run.objects.get(size) for run in self.runs)]
        head = ["", self.metric, name, f"{self.metric} without attention"]
        head += [f"AP {size} ({self.runs[0].objects[size]:,})" for size in sizes]
        head += ["parameters", "GFLOPs"]
        rows = []
        for model in self.models:
            runs = self.of(model)
            without = [run.without_attention for run in runs]
            columns = [[run.score for run in runs], [run.metrics[key] for run in runs if key in run.metrics], without]
            columns += [[run.sizes[size] for run in runs] for size in sizes]
            cells = [_spread(column) if column and all(map(isfinite, column)) else "-" for column in columns]
            cost = [f"{runs[0].parameters:,}", f"{runs[0].gflops:.2f}"]
            rows.append([model, *cells, *cost])
        return head, rows

    def _difference_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the head and the rows of the table of the differences."""
        head = [f"{self.metric}, to {self.models[0]}", "mean", "95% over seeds", "95% over images", "p", "p (Holm)"]
        rows = []
        for each in self.differences:
            spread = f"{each.mean:+.4f}" + ("" if each.deviation is None else f" ± {each.deviation:.4f}")
            cells = [f"{each.low:+.4f} to {each.high:+.4f}", "-", f"{each.p:.3g}", f"{each.adjusted:.3g}"]
            if each.images_low is not None and each.images_high is not None:
                cells[1] = f"{each.images_low:+.4f} to {each.images_high:+.4f}"
            rows.append([each.model, spread, *(cells if each.has_enough_seeds else [""] * len(cells))])
        return head, rows

    def _notes(self) -> Iterable[str]:
        seeds = ", ".join(map(str, self.seeds))
        keys = ", ".join(f"{key}={value}" for key, value in self.train.items()) or "the defaults"
        yield (
            f"{self.data} ({self.split}), seeds {seeds}, {self.runs[0].imgsz} px, trained with {keys}. Mean ± standard "
            "deviation over all seeds, with the weights of the last epoch: the best epoch or the best seed would be "
            "selected on the images that are measured."
        )
        yield ""
        if any(self.runs[0].objects.values()):
            yield (
                "AP small, medium, large: AP at IoU 0.5 to 0.95 of objects up to 32² px, up to 96² px and above, as "
                "COCO counts it; in brackets the number of these objects in the images."
            )
            yield ""
        elif self.task == "detect" and not self.runs[0].objects:
            yield (
                "AP by object size is left out, because faster-coco-eval is not installed (the extra compare): "
                f"{installer('install', 'faster-coco-eval')}"
            )
            yield ""
        yield (
            "Without attention: the same weights with all gates held constant, per channel, at their mean over the "
            "images. If a model scores the same there, attention contributes nothing."
        )
        yield ""
        yield (
            "95% over seeds: a bootstrap of the paired differences, which is too narrow with few seeds. 95% over "
            "images: a bootstrap of the images, with the trained models fixed. p: the exact sign-flip test over the "
            "seeds; p (Holm): adjusted for the number of models, and what the sentences above go by. A longer training "
            "run may give another result."
        )

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write the tables and the picture.

        Returns:
            ``compare.md``, ``.tex`` (for LaTeX's booktabs), ``.csv`` (a row per run), ``.json`` and ``.png``.

        Raises:
            OSError: If they cannot be written.
        """
        files = tuple(Path(folder) / f"compare.{ending}" for ending in ("md", "tex", "csv", "json", "png"))
        with atomic_write(files[0]) as part:
            part.write_text(f"{self}\n", encoding="utf-8")
        with atomic_write(files[1]) as part:
            part.write_text(f"{latex_table(*self._table())}\n\n{latex_table(*self._difference_table())}\n", "utf-8")
        with atomic_write(files[2]) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._csv_rows())
        write_json(files[3], self._json())
        with atomic_write(files[4]) as part:
            self._picture().savefig(part, format="png", dpi=120)
        return files

    def _picture(self) -> Any:
        title = f"{Path(self.data).name}, {self.runs[0].imgsz} px, seeds {', '.join(map(str, self.seeds))}"
        scores = {model: [run.score for run in self.of(model)] for model in self.models}
        return draw_comparison(title, self.metric, scores, self.differences)

    def _csv_rows(self) -> Iterable[list[Any]]:
        classes, metrics = [*self.runs[0].classes], [*self.runs[0].metrics]
        by_class = [f"{self.metric} of {each}" for each in classes]
        by_size = [*(f"AP {size}" for size in SIZES), *(f"{size} objects" for size in SIZES)]
        yield ["model", "seed", self.metric, "without attention", *metrics, *by_size, *by_class, "seconds"]
        for run in self.runs:
            numbers = [
                run.score,
                run.without_attention,
                *map(run.metrics.get, metrics),
                *map(run.sizes.get, SIZES),
                *map(run.objects.get, SIZES),
                *map(run.classes.get, classes),
                run.seconds,
            ]
            cells = (number if number is not None and isfinite(number) else "" for number in numbers)
            yield [run.model, run.seed, *cells]

    def _json(self) -> dict[str, Any]:
        runs = [{key: value for key, value in asdict(run).items() if key != "resampled"} for run in self.runs]
        verdicts = [difference.verdict for difference in self.differences]
        return {"schema": SCHEMA, **asdict(self), "runs": runs, "verdicts": verdicts}


def _spread(values: Sequence[float]) -> str:
    spread = deviation(values) if values else None
    return (f"{mean(values):.4f}" if values else "") + ("" if spread is None else f" ± {spread:.4f}")
